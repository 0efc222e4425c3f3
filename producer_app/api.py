"""The HTTP API of the clinic application, over the same service functions as everything else."""

from __future__ import annotations

import contextlib
import functools
import urllib.parse
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any, Final

import fastapi
import pydantic
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.convertors import PathConvertor, register_url_convertor

from connectors.outbox import PAYLOAD_BYTES_MAX, EntityType
from connectors.payloads.reading import FieldError
from producer_app import bootstrap, services, views
from producer_app.config import AppSettings
from producer_app.errors import AppError, ConflictError, InvalidChangeError, NotFoundError, UnavailableError
from producer_app.openapi import describe, request_body
from producer_app.targets import TargetChoice

PATHS: Final = {EntityType.PATIENT: "patients", EntityType.ENCOUNTER: "encounters", EntityType.ORDER: "orders"}


class _EntityIdConvertor(PathConvertor):
    """An id in an address: it may hold slashes, but not be empty, or a list with a slash at its end were an entity."""

    regex = ".+"


register_url_convertor("entity_id", _EntityIdConvertor())


class RecordedView(pydantic.BaseModel):
    """A change that was committed: whose, and the ids of its outbox rows."""

    entity_id: str
    outbox_ids: list[str]


class Refusal(pydantic.BaseModel):
    """Why nothing was done; fields is filled when the input is wrong."""

    detail: str
    fields: list[FieldError] = []


Target = Annotated[TargetChoice | None, fastapi.Query(description="where this change goes; else as configured")]


def create_app(settings: AppSettings) -> fastapi.FastAPI:
    """Make the HTTP application; it connects at the first request and closes its pool at shutdown."""
    application = bootstrap.build(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        application.close()

    app = fastapi.FastAPI(
        title="emrsync clinic application",
        version="1",
        description="Patients, encounters and orders; each change is written with its outbox rows in one transaction.",
        lifespan=lifespan,
    )
    # FastAPI's documented way to extend the document is to replace the method.
    app.openapi = functools.partial(describe, app)  # type: ignore[method-assign]
    app.add_exception_handler(AppError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    for entity_type, path in PATHS.items():
        app.include_router(_router(application, entity_type, path))
    app.include_router(_health(application))
    return app


def _router(application: bootstrap.Application, entity_type: EntityType, path: str) -> fastapi.APIRouter:
    refusals: dict[int | str, dict[str, Any]] = {code: {"model": Refusal} for code in (404, 409, 422, 503)}
    router = fastapi.APIRouter(prefix=f"/{path}", tags=[path], responses=refusals)

    @router.post("", status_code=HTTPStatus.CREATED, openapi_extra=request_body(entity_type))
    def create(body: _Body, response: fastapi.Response, target: Target = None) -> RecordedView:
        """Create one; an id is given out when the body has none."""
        done = services.create(application.unit_of_work(), entity_type, body, targets=_systems(target))
        response.headers["Location"] = f"/{path}/{urllib.parse.quote(done.entity_id, safe='')}"
        return _recorded(done)

    @router.put("/{entity_id:entity_id}", openapi_extra=request_body(entity_type))
    def update(entity_id: str, body: _Body, target: Target = None) -> RecordedView:
        """Replace the full state of one."""
        uow = application.unit_of_work()
        return _recorded(services.update(uow, entity_type, entity_id, body, targets=_systems(target)))

    @router.delete("/{entity_id:entity_id}")
    def delete(entity_id: str, target: Target = None) -> RecordedView:
        """Delete one; its id is never used again."""
        uow = application.unit_of_work()
        return _recorded(services.delete(uow, entity_type, entity_id, targets=_systems(target)))

    @router.get("/{entity_id:entity_id}")
    def show(entity_id: str) -> views.EntityView:
        """Show one, also a deleted one, and how far it has come into each target system."""
        return views.entity_view(application.engine, entity_type, entity_id)

    @router.get("")
    def page(
        after: Annotated[str, fastapi.Query(max_length=100)] = "",
        limit: Annotated[int, fastapi.Query(ge=1, le=views.PAGE_ROWS_MAX)] = 50,
        patient_id: Annotated[str | None, fastapi.Query(max_length=100)] = None,
    ) -> views.PageView:
        """List ids of undeleted ones in order, all or of one patient."""
        return views.page_view(application.engine, entity_type, after=after, limit=limit, patient_id=patient_id)

    return router


def _health(application: bootstrap.Application) -> fastapi.APIRouter:
    router = fastapi.APIRouter(tags=["health"], responses={503: {"model": Refusal}})

    @router.get("/health")
    def health() -> dict[str, str]:
        """Say whether the application and its database answer."""
        views.answers(application.engine)
        return {"status": "ok"}

    return router


async def _read_body(request: fastapi.Request) -> bytes:
    """Read the raw body, because the payload contract reads JSON more strictly than FastAPI, and repeats no values."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > PAYLOAD_BYTES_MAX:
            raise InvalidChangeError.of("payload", f"has more than {PAYLOAD_BYTES_MAX} bytes")
    return bytes(body)


_Body = Annotated[bytes, fastapi.Depends(_read_body)]


def _systems(target: TargetChoice | None) -> services.Targets:
    return None if target is None else target.systems


def _recorded(done: services.Recorded) -> RecordedView:
    return RecordedView(entity_id=done.entity_id, outbox_ids=[str(outbox_id) for outbox_id in done.outbox_ids])


def _status(error: Exception) -> HTTPStatus:
    match error:
        case InvalidChangeError():
            return HTTPStatus.UNPROCESSABLE_ENTITY
        case NotFoundError():
            return HTTPStatus.NOT_FOUND
        case ConflictError():
            return HTTPStatus.CONFLICT
        case UnavailableError():
            return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _refuse(_request: fastapi.Request, error: Exception) -> JSONResponse:
    fields = list(error.fields) if isinstance(error, InvalidChangeError) else []
    return _refusal(_status(error), Refusal(detail=str(error), fields=fields))


def _refuse_parameters(_request: fastapi.Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    # FastAPI's own answer repeats the input.
    fields = [FieldError(field=str(one["loc"][-1]), reason=one["msg"]) for one in found]
    detail = "; ".join(f"{one.field}: {one.reason}" for one in fields)
    return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, Refusal(detail=detail, fields=fields))


def _refusal(status: HTTPStatus, refusal: Refusal) -> JSONResponse:
    # Busy rows and a full pool clear up in seconds.
    headers = {"Retry-After": "5"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(refusal.model_dump(mode="json"), status_code=status, headers=headers)
