"""Puts together what replays and their kin work with on the real systems."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from consumer import source_database
from consumer.bootstrap import open_target
from consumer.config import RetrySettings
from consumer.openemr import session
from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.rehearsal import RehearsalTarget
from consumer.openemr.target import OpenEmrTarget
from consumer.outbox_marker import SqlOutboxMarker


@dataclasses.dataclass(frozen=True, slots=True)
class Replaying:
    """What a replay works on: OpenEMR's database, the same for rehearsals, and the outbox rows."""

    target: OpenEmrTarget
    rehearsal: RehearsalTarget
    marker: SqlOutboxMarker


@contextlib.contextmanager
def wired_replay() -> Iterator[Replaying]:
    """Give a replay's parts, by the settings that a retrier has.

    Raises:
        TransientError, MisconfiguredError: a system is away or set up wrongly.
    """
    settings = RetrySettings.read()
    with contextlib.ExitStack() as held:
        source = source_database.create_engine(settings.source_url.get_secret_value())
        held.callback(source.dispose)
        target = open_target(settings)
        held.callback(target.close)
        rehearsal = RehearsalTarget(
            session.create_engine(settings.openemr_url.get_secret_value()),
            ledger_schema=checked_schema(settings.ledger_schema),
            group_id=settings.consumer_group,
            choices=settings.site_choices,
        )
        held.callback(rehearsal.close)
        yield Replaying(target, rehearsal, SqlOutboxMarker(source, settings.retry_policy))
