"""The parts of a resync that need no server: selection, throttle and words."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import pytest
from sqlalchemy import create_mock_engine
from typer.testing import CliRunner

from connectors.outbox import EntityType, Status
from consumer.ports import Record
from operations import cli
from operations.errors import ResyncError
from operations.kafka import KafkaAdmin, PartitionLag
from operations.kafka_tail import KafkaTail
from operations.recovery_ledger import FINISHED, PAUSED, RUNNING, STOPPED
from operations.resync import Ended, Looked, OutboxResync, _Slice
from operations.resync_ledger import ResyncRun, Way
from operations.resync_selection import ResyncSelection
from operations.resync_throttle import Throttle
from operations.resync_view import ended_words, open_words, outbox_lines, tables_lines

NOON = dt.datetime(2025, 3, 1, 12, tzinfo=dt.UTC)
DIALECT = create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
CHOSEN = ResyncSelection(
    entity_types=(EntityType.PATIENT,),
    entity_ids=("P-1' OR 1 = 1",),
    statuses=(Status.FAILED,),
    since=NOON,
    until=NOON + dt.timedelta(days=1),
    seq_from=5,
    seq_to=9,
)
RUN = ResyncRun("r", Way.OUTBOX, CHOSEN, RUNNING, 10, 4, {"slice": {"seqs": [5, 6]}}, NOON)


class SlowGroup(KafkaAdmin):
    """A group that settles so many of ten records at each look."""

    def __init__(self, per_look: int) -> None:
        self._per_look = per_look
        self.settled = 0

    def lag(self, group: str, topics: Collection[str]) -> tuple[PartitionLag, ...]:  # noqa: ARG002 - the base's
        """Say how far the group is, and let it go on."""
        at = min(10, self.settled)
        self.settled += self._per_look
        return (PartitionLag("emrsync.patient", 0, committed=at, end=10, lag=10 - at),)


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def throttle(group: KafkaAdmin, clock: Clock, stop: bool = False) -> Throttle:
    """Make one of 10 events a second."""
    return Throttle(group, "g", ["t"], 10.0, lambda: stop, sleep=clock.sleep, clock=lambda: clock.now_s)


def test_a_selection_survives_the_ledger() -> None:
    """Whoever resumes sends what was chosen."""
    assert CHOSEN == ResyncSelection.from_json(CHOSEN.to_json())
    assert ResyncSelection(every=True) == ResyncSelection.from_json(ResyncSelection(every=True).to_json())


def test_what_an_operator_chooses_is_bound_and_never_part_of_the_statement() -> None:
    """A word may hold a quote."""
    statement = " AND ".join(str(one.compile(dialect=DIALECT)) for one in CHOSEN.rows())

    assert 7 == len(CHOSEN.rows())
    assert "P-1" not in statement


def test_a_time_without_offset_is_refused() -> None:
    """It would mean another instant on another machine."""
    with pytest.raises(ResyncError, match="needs an offset"):
        ResyncSelection(since=dt.datetime(2025, 3, 1))  # noqa: DTZ001 - on purpose


def test_the_next_portion_waits_for_the_group_and_for_the_rate() -> None:
    """Whichever takes longer."""
    group, clock = SlowGroup(per_look=5), Clock()
    paced = throttle(group, clock)
    paced.wait(20)
    assert (2.0, True) == (round(clock.now_s, 3), group.settled >= 10)

    slow, clock = SlowGroup(per_look=1), Clock()
    throttle(slow, clock).wait(1)
    assert 1.0 == round(clock.now_s, 3)


def test_a_group_that_settles_nothing_ends_the_wait() -> None:
    """The reason says where to look."""
    with pytest.raises(ResyncError, match=r"settled nothing for 60 s: see `emrsync group`"):
        throttle(SlowGroup(per_look=0), Clock()).wait(1)


def test_an_operator_who_stops_is_not_kept_waiting() -> None:
    """Neither by the group nor by the rate."""
    clock = Clock()
    throttle(SlowGroup(per_look=0), clock, stop=True).wait(1_000)
    assert clock.now_s == 0.0


class EarlierPart(KafkaTail):
    """What came since a slice was asked for: so many reads, of which some give nothing."""

    def __init__(self, reads: Sequence[Sequence[int]]) -> None:
        self._reads = list(reads)

    @property
    def is_behind(self) -> bool:
        """Whether there is more."""
        return bool(self._reads)

    def read(self, limit_s: float) -> Iterator[Record]:  # noqa: ARG002 - the base's
        """Give the next."""
        for seq in self._reads.pop(0):
            yield Record(
                topic="emrsync.patient",
                partition=0,
                offset=seq,
                key=b"P-1",
                value=b"{}",
                headers=[("seq", str(seq).encode())],
                timestamp_ms=None,
            )


class Asked(OutboxResync):
    """A run whose rows are all still there; it notes what it asks for, and is answered at once."""

    def __init__(self) -> None:
        self._notifications = "emrsync.notifications"
        self.asked: list[int] = []

    def _still_there(self, seqs: set[int]) -> set[int]:
        return seqs

    def _signal(self, _signal_id: str, seqs: Sequence[int]) -> None:
        self.asked += seqs

    def _await(self, _signal_id: str, missing: set[int], _tail: KafkaTail, _stop: Callable[[], bool]) -> None:
        missing.clear()


def test_a_slice_that_goes_on_asks_only_for_what_has_not_come_since() -> None:
    """All of it is read first, however slowly Kafka gives it."""
    resync = Asked()

    resync._send(_Slice([1, 2, 3, 4], "s", {}), EarlierPart([[1], [], [2], [4]]), lambda: False)

    assert [3] == resync.asked


def test_a_look_says_what_would_be_sent_and_how_long_it_takes() -> None:
    """By type and status."""
    looked = Looked(Counter({("patient", "done"): 1_200, ("order", "failed"): 1}), NOON, NOON, 7)
    lines = list(outbox_lines(looked, 100.0))

    assert ["        1 order failed", "    1,200 patient done"] == lines[:2]
    assert lines[3].startswith("1,201 rows are sent again by the connector, in at least 12 s at 100 a second")
    assert "--from-tables" in next(outbox_lines(Looked(Counter(), None, None, 0), 100.0))
    assert list(tables_lines(Counter(patient=3), 1.0))[1].startswith("3 entities get a new event")
    assert "--every" in next(tables_lines(Counter(patient=0), 1.0))


@pytest.mark.parametrize("deed", ["--resume", "--abort"])
@pytest.mark.parametrize(
    "words", [["--entity-type", "patient"], ["--from-tables"], ["--from-time", "2025-03-01T00:00:00+00:00"]]
)
def test_what_chooses_rows_is_refused_where_it_would_be_ignored(deed: str, words: list[str]) -> None:
    """The resync that has begun has its own selection."""
    called = CliRunner().invoke(cli.build(["resync"]), ["resync", deed, "--why", "a test", *words])

    assert isinstance(called.exception, ResyncError)
    assert "leave out what chooses rows" in str(called.exception)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--every"], "--every: goes with --from-tables"),
        (["--from-tables", "--status", "failed"], "are about rows of the outbox"),
        (["--from-tables", "--from-seq", "1"], "are about rows of the outbox"),
        (["--from-tables", "--to-seq", "9"], "are about rows of the outbox"),
        (["--apply", "--resume", "--why", "a test"], "--apply, --resume and --abort exclude each other"),
        (["--apply"], "--why: say why"),
        (["--abort", "--why", " "], "--why: say why"),
        (["--resume", "--why", "x" * 501], "--why: say why, in 1 to 500 characters"),
    ],
)
@pytest.mark.usefixtures("bare")
def test_words_that_contradict_each_other_are_refused_before_anything_is_asked(words: list[str], reason: str) -> None:
    """Nothing is reached here, and no setting is there."""
    called = CliRunner().invoke(cli.build(["resync"]), ["resync", *words])

    assert isinstance(called.exception, ResyncError)
    assert reason in str(called.exception)


def test_words_say_where_a_resync_is_and_what_comes_next() -> None:
    """After a kill, a pause, a stop, and the end."""
    assert "a resync from the outbox is under way: 4 of 10 events done, 2 more were under way" in (
        open_words(RUN, is_held=True)
    )
    assert "is not under way any more: it was cut off, or was killed: 4 of 10" in open_words(RUN, is_held=False)
    assert "is under way, or was killed: 4 of 10" in open_words(RUN)
    assert ended_words(Ended(FINISHED, 10), RUN) == "10 of 10 events sent again"
    assert ended_words(Ended(FINISHED, 10, "3 refused"), RUN).endswith("\n! 3 refused")
    assert "\npaused\n`emrsync resync --resume" in ended_words(Ended(PAUSED, 4), RUN)
    assert "\n! stopped: no answer\n" in ended_words(Ended(STOPPED, 4, "no answer"), RUN)
