"""A client of Kafka Connect's REST interface that calls a connector running only when all of it runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import httpx
import tenacity

from connectors.connect_errors import (
    ConnectBusyError,
    ConnectError,
    ConnectorAbsentError,
    ConnectorNotRunningError,
    ConnectUnreachableError,
    causes,
    refusal,
)

APPLY_LIMIT_S: Final = 60.0
"""How long apply() waits for the connector to run."""

STEADY_S: Final = 2.0
"""A new task shows RUNNING before it has opened its connection: it must stay so for this long."""

_CONNECT_LIMIT_S: Final = 5.0
_READ_LIMIT_S: Final = 10.0  # a worker that hangs must not hide one that does not
_REQUEST_LIMIT_S: Final = 45.0  # a PUT asks the source database before it is answered
_POLL_S: Final = 0.25
_RUNNING: Final = "RUNNING"
_FAILED: Final = "FAILED"


@dataclasses.dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task: its state in Connect's words, its worker, and the Java trace when it failed."""

    number: int
    state: str
    worker: str
    trace: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectorStatus:
    """A connector and all of its tasks."""

    name: str
    state: str
    worker: str
    tasks: tuple[TaskStatus, ...]
    trace: str = dataclasses.field(default="", repr=False)

    @property
    def running(self) -> bool:
        """Whether the connector, at least one task, and every task run."""
        return self.state == _RUNNING and bool(self.tasks) and all(task.state == _RUNNING for task in self.tasks)

    @property
    def failed(self) -> bool:
        """Whether the connector or any task has failed; Connect restarts neither by itself."""
        return self.state == _FAILED or any(task.state == _FAILED for task in self.tasks)

    @property
    def failure(self) -> str | None:
        """The causes in the trace of the connector or the first failed task; None when nothing failed."""
        if self.state == _FAILED:
            return f"the connector failed: {causes(self.trace)}"
        for task in self.tasks:
            if task.state == _FAILED:
                return f"task {task.number} failed on {task.worker}: {causes(task.trace)}"
        return None

    @property
    def summary(self) -> str:
        """States in a few words, such as "connector RUNNING, task 0 FAILED"."""
        tasks = ", ".join(f"task {task.number} {task.state}" for task in self.tasks) or "no task"
        return f"connector {self.state}, {tasks}"


class ConnectClient:
    """The operations that the pipeline needs; every method may raise a ConnectError.

    url may name several workers of one group, separated by commas: one that does not answer is passed over.
    Only a refused connection and a rebalance (409) are tried again, for at most retry_limit_s seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        login: tuple[str, str] | None = None,
        retry_limit_s: float = 15.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = [one.strip().rstrip("/") for one in url.split(",") if one.strip()]
        self._sleep = sleep
        self._clock = clock
        self._http = httpx.Client(auth=login, trust_env=False, transport=transport)
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((httpx.ConnectError, ConnectBusyError)),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=2.0),
            stop=tenacity.stop_after_delay(retry_limit_s),
            sleep=sleep,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def names(self) -> tuple[str, ...]:
        """List the connectors."""
        return tuple(sorted(self._call("GET", "/connectors")))

    def config(self, name: str) -> dict[str, str]:
        """Return the configuration that a connector has, secrets still as references."""
        read: dict[str, str] = self._call("GET", f"/connectors/{name}/config")
        return read

    def config_or_none(self, name: str) -> dict[str, str] | None:
        """Return the same, or None when there is no such connector."""
        return self.config(name) if name in self.names() else None

    def objections(self, config: Mapping[str, str]) -> tuple[str, ...]:
        """Ask the connector itself what is wrong with a configuration; it tries its database for that."""
        plugin = config["connector.class"].rsplit(".", 1)[-1]
        asked = {"name": "plan", **config}
        read = self._call("PUT", f"/connector-plugins/{plugin}/config/validate", json=asked)
        return tuple(
            f"{one['value']['name']}: {' '.join(error.split())}"
            for one in read["configs"]
            if one["value"] is not None  # of settings that only a definition is known of
            for error in one["value"]["errors"]
        )

    def apply(self, name: str, config: Mapping[str, str], *, limit_s: float = APPLY_LIMIT_S) -> ConnectorStatus:
        """Create or change a connector and wait until it and every task run, and keep running for STEADY_S.

        Tasks that had failed are restarted once, as Connect leaves them failed when the configuration is the same.

        Raises:
            ConnectorRefusedError: the configuration is wrong.
            SourceUnreachableError: the connector could not ask the database.
            ConnectorNotRunningError: it failed, or does not run within limit_s seconds; with the causes.
        """
        wanted = {**config, "name": name}
        seen = self._status_or_none(name) if name in self.names() else None
        if seen is not None and seen.running and self.config(name) == wanted:
            return seen  # a PUT of the same would interrupt the stream for nothing
        self._call("PUT", f"/connectors/{name}/config", json=wanted)
        if seen is not None and seen.failed:
            self.restart(name)
        return self.wait_running(name, limit_s=limit_s)

    def wait_running(self, name: str, *, limit_s: float = APPLY_LIMIT_S) -> ConnectorStatus:
        """Wait until the connector and every task run steadily; ConnectorNotRunningError when they do not."""
        deadline_s = self._clock() + limit_s
        running_since_s: float | None = None
        failed_since_s: float | None = None
        while True:
            now_s = self._clock()
            seen = self._status_or_none(name)
            running_since_s = _since(running_since_s, now_s) if seen is not None and seen.running else None
            # Right after a restart the state of before is still shown.
            failed_since_s = _since(failed_since_s, now_s) if seen is not None and seen.failed else None
            if seen is not None and running_since_s is not None and now_s - running_since_s >= STEADY_S:
                return seen
            if seen is not None and failed_since_s is not None and now_s - failed_since_s >= STEADY_S:
                raise ConnectorNotRunningError(f"connector {name}: {seen.failure}")
            if now_s >= deadline_s:
                state = seen.summary if seen is not None else "no state yet"
                raise ConnectorNotRunningError(
                    f"connector {name} does not run after {limit_s:.0f} s ({state}); see the worker's log"
                )
            self._sleep(_POLL_S)

    def status(self, name: str) -> ConnectorStatus:
        """Return the states of a connector and its tasks; UNASSIGNED while no worker has taken it yet."""
        try:
            read = self._call("GET", f"/connectors/{name}/status")
        except ConnectorAbsentError:
            if name not in self.names():
                raise
            return ConnectorStatus(name, "UNASSIGNED", "", ())
        connector = read["connector"]
        return ConnectorStatus(
            name=name,
            state=connector["state"],
            worker=connector["worker_id"],
            trace=connector.get("trace", ""),
            tasks=tuple(
                TaskStatus(task["id"], task["state"], task["worker_id"], task.get("trace", ""))
                for task in read["tasks"]
            ),
        )

    def restart(self, name: str, *, only_failed: bool = True) -> None:
        """Restart the connector with its tasks; all of them, or those that failed.

        A task that shows RUNNING but moves nothing is helped by only_failed=False only.
        """
        flags = {"includeTasks": "true", "onlyFailed": "true" if only_failed else "false"}
        self._call("POST", f"/connectors/{name}/restart", params=flags)

    def stop(self, name: str) -> None:
        """Stop a connector so that its offsets can be changed; the configuration stays."""
        self._call("PUT", f"/connectors/{name}/stop")

    def resume(self, name: str) -> None:
        """Let a stopped or paused connector run again."""
        self._call("PUT", f"/connectors/{name}/resume")

    def delete(self, name: str) -> None:
        """Remove a connector; its offsets stay, and so does its replication slot."""
        self._call("DELETE", f"/connectors/{name}")

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """Return the positions in the source, as Connect keeps them."""
        read: list[dict[str, Any]] = self._call("GET", f"/connectors/{name}/offsets")["offsets"]
        return read

    def delete_offsets(self, name: str) -> None:
        """Forget the positions of a stopped connector: at its next start it sends every unfinished row again."""
        self._call("DELETE", f"/connectors/{name}/offsets")

    def _status_or_none(self, name: str) -> ConnectorStatus | None:
        try:
            return self.status(name)
        except ConnectorAbsentError:
            return None  # accepted, but not every worker has heard of it yet

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            return self._retrying(self._call_once, method, path, **options)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ConnectUnreachableError(
                f"Kafka Connect does not answer at {' or '.join(self._urls)} ({reason}): start a worker, or set"
                " EMRSYNC_CONNECT_URL"
            ) from error

    def _call_once(self, method: str, path: str, **options: Any) -> Any:
        response = self._response(method, path, **options)
        if not response.is_success:
            raise refusal(response, path)
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise ConnectError(f"what answers to {path} is no Kafka Connect; check EMRSYNC_CONNECT_URL") from error

    def _response(self, method: str, path: str, **options: Any) -> httpx.Response:
        limit_s = _READ_LIMIT_S if method == "GET" else _REQUEST_LIMIT_S
        limits = httpx.Timeout(limit_s, connect=_CONNECT_LIMIT_S)
        for _ in self._urls[1:]:
            try:
                return self._http.request(method, f"{self._urls[0]}{path}", timeout=limits, **options)
            except (httpx.ConnectError, httpx.TimeoutException):
                # Whoever answered last is asked first; every request may be made twice.
                self._urls.append(self._urls.pop(0))
        return self._http.request(method, f"{self._urls[0]}{path}", timeout=limits, **options)


def _since(since_s: float | None, now_s: float) -> float:
    return now_s if since_s is None else since_s
