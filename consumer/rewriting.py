"""Write entities again as their newest event says, although the ledger has settled it: repair of OpenEMR's rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from connectors.events import EntityKey, Event
from consumer.outcome import Applied, Failed
from consumer.ports import Change, Target
from consumer.prepare import prepare


def rewrite(target: Target, events: Sequence[Event]) -> Mapping[EntityKey, Applied | Failed]:
    """Write again those events that are still the newest of their entity, in one transaction.

    The ledger's watermark decides what is newest, so nothing older can overwrite something newer. Left out are
    entities that have moved on, that the application has deleted, and those whose payload cannot be written or whose
    parent is not there: the event's own settlement has said so, or will.

    Raises:
        RefusedError, RaceError, TransientError, MisconfiguredError: from the target; nothing was written.
    """
    wanted = {event.key: event for event in events}
    with target.transaction() as transaction:
        mapped = transaction.lock(list(wanted))
        prepared = {
            key: prepare(target, event)
            for key, event in wanted.items()
            if key in mapped and mapped[key].alive and mapped[key].last_seq == event.seq
        }
        drafts = {key: one.draft for key, one in prepared.items() if not isinstance(one.draft, Failed | None)}
        parents = transaction.find(list({parent for draft in drafts.values() for parent in draft.parents}))
        changes = [
            # Without the digest of what was written last, the row counts as changed.
            Change(
                wanted[key],
                draft,
                dataclasses.replace(mapped[key], content_hash=None),
                [parents[parent] for parent in draft.parents],
                fhir=False,
            )
            for key, draft in drafts.items()
            if all(parent in parents and parents[parent].alive for parent in draft.parents)
        ]
        outcomes = transaction.write(changes) if changes else {}
        transaction.record((), ())  # for the trail; the events were settled before
        transaction.commit()
    return outcomes
