"""The systems around the consumer in memory: the adapters' promises, and errors where a test plans them."""

from tests.fakes.failed_rows import FakeFailedRows
from tests.fakes.faults import Clock, Faults, InlineExecutor
from tests.fakes.marker import FakeMarker, FakeRow, FakeSource
from tests.fakes.stream import FakeBroker, FakeEventStream
from tests.fakes.target import FakeOpenEmr, FakeTarget, digest

__all__ = [
    "Clock",
    "FakeBroker",
    "FakeEventStream",
    "FakeFailedRows",
    "FakeMarker",
    "FakeOpenEmr",
    "FakeRow",
    "FakeSource",
    "FakeTarget",
    "Faults",
    "InlineExecutor",
    "digest",
]
