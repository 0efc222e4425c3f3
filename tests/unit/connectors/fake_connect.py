"""A Kafka Connect in memory, with the answers that real workers were seen to give."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx

Answer = httpx.Response


@dataclasses.dataclass
class FakeConnect:
    """Holds one connector; states is what /status answers, one after another, the last for ever.

    failures: how many requests that end in such a word are carried out, and answered by a connection that breaks.
    """

    states: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    config: dict[str, str] | None = None
    put_answers: list[Answer] = dataclasses.field(default_factory=list)
    restart_answers: list[Answer] = dataclasses.field(default_factory=list)
    calls: list[str] = dataclasses.field(default_factory=list)
    refused_connections: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    now_s: float = 0.0

    def transport(self) -> httpx.MockTransport:
        """Give what httpx sends its requests to."""
        return httpx.MockTransport(self._answer)

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now_s += seconds

    def clock(self) -> float:
        """Tell the time that has passed."""
        return self.now_s

    def _answer(self, request: httpx.Request) -> Answer:
        if self.refused_connections > 0:
            self.refused_connections -= 1
            raise httpx.ConnectError("[Errno 111] Connection refused", request=request)
        self.calls.append(f"{request.method} {request.url.raw_path.decode()}")
        path = request.url.path
        word = path.rsplit("/", 1)[1]
        if self.failures.get(word, 0) > 0:
            self.failures[word] -= 1
            raise httpx.ReadError("connection reset", request=request)
        if path == "/connectors":
            return Answer(200, json=[] if self.config is None else ["outbox"])
        if path.endswith("/config") and request.method == "PUT":
            if self.put_answers:
                return self.put_answers.pop(0)
            self.config = json.loads(request.content)
            return Answer(201, json={"name": "outbox", "config": self.config})
        if path.endswith("/config"):
            return Answer(200, json=self.config)
        if path.endswith("/status"):
            state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
            return (
                Answer(404, json={"error_code": 404, "message": "No status found"})
                if not state
                else Answer(200, json=state)
            )
        restarts = path.endswith("/restart") and self.restart_answers
        return self.restart_answers.pop(0) if restarts else Answer(202, json={})


def state(connector: str, *tasks: str, trace: str = "") -> dict[str, Any]:
    """Build what /status answers; a trace is given to every failed one."""

    def one(name: str) -> dict[str, Any]:
        return {"state": name, "worker_id": "w1:8083", **({"trace": trace} if name == "FAILED" else {})}

    return {
        "name": "outbox",
        "connector": one(connector),
        "tasks": [{"id": number, **one(task)} for number, task in enumerate(tasks)],
        "type": "source",
    }
