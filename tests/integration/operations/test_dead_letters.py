"""Bad records on a real broker: parked as they are, listed, shown, replayed, discarded, and never told about."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package's own re-exports, not marked as such
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from connectors.events import Event
from connectors.topics import dead_letter_topic
from consumer.dead_letters import ADDED, TooManyDeadLettersError
from consumer.ports import MisconfiguredError, Record
from operations.config import OperationsSettings
from operations.dead_letter_actions import DeadLetterActions, Kind
from operations.errors import DeadLetterError
from operations.kafka import KafkaAdmin
from operations.status import read_status
from tests import clinic as made
from tests.clinic import FAMILY_NAME
from tests.integration.operations.letters import Clinic, Said, emrsync, make_topics, remove_topics
from tests.made_events import event, headers

Run = Callable[..., Said]


@pytest.fixture
def run(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give the operator's command line."""

    def called(*words: str, **more: str) -> Said:
        return emrsync(clinic, monkeypatch, capsys, *words, **more)

    return called


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Give what is logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def listed(run: Run, *words: str) -> list[dict[str, Any]]:
    """Give the list as programs read it."""
    found: list[dict[str, Any]] = json.loads(run("dead-letter", "list", "--json", *words).out)["dead_letters"]
    return found


def bad_records(clinic: Clinic) -> dict[str, tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]:
    """Give a record of every kind that is no event, by the reason, with a name in its payload."""
    one = event(made.patient())
    topic, key, value, good = clinic.topic(one), one.key.entity_id.encode(), one.payload, list(headers(one))

    def but(**changed: bytes | None) -> list[tuple[str, bytes | None]]:
        return [(name, raw) for name, raw in {**dict(good), **changed}.items() if raw is not None]

    return {
        "value: is absent (a tombstone)": (topic, key, None, good),
        f"value: has {len(value) + 2000} bytes, at most 2000 are allowed": (topic, key, value + b" " * 2000, good),
        "key: is absent; it must be the entity_id": (topic, None, value, good),
        "key: is not UTF-8": (topic, b"\xff", value, good),
        "entity_id: holds a control character": (topic, b"P\x1b[2J", value, good),
        "header id: is absent": (topic, key, value, []),
        "header id: is no UUID": (topic, key, value, but(id=FAMILY_NAME.encode())),
        "header id: comes more than once": (topic, key, value, [*good, good[0]]),
        "header entity_type: is none of patient, encounter, order": (topic, key, value, but(entity_type=b"invoice")),
        "header entity_type: is not the one of this topic": (f"{clinic.prefix}.order", key, value, good),
        "header operation: is none of create, update, delete": (topic, key, value, but(operation=b"upsert")),
        "header seq: is no whole number from 0 to 9223372036854775807": (topic, key, value, but(seq=b"\xd9\xa3")),
        "header created_at: is not UTF-8": (topic, key, value, but(created_at=b"\xff\xfe")),
        "header payload_version: is absent": (topic, key, value, but(payload_version=None)),
    }


def test_each_kind_of_bad_record_is_kept_as_it_was_and_told_without_its_content(
    clinic: Clinic, run: Run, logged: list[MutableMapping[str, Any]]
) -> None:
    """Bytes, key, headers, source position and reason; a patient's name in the payload is told to nobody."""
    wanted = bad_records(clinic)
    for record in wanted.values():
        clinic.produce(*record)
    good = clinic.happen(event(made.patient()))
    clinic.drain(value_bytes_max=2_000)

    kafka = KafkaAdmin(clinic.servers)
    topic = dead_letter_topic(clinic.prefix)
    letters = list(kafka.records(topic, 0, *kafka.kept(topic).offsets[0]))
    found = {dict(one.headers)["emrsync.reason"].decode(): one for one in letters}  # type: ignore[union-attr]  # it has one
    assert set(wanted) == set(found)
    for reason, (source, key, value, added) in wanted.items():
        assert (key, value, added) == (found[reason].key, found[reason].value, list(found[reason].headers[:-5])), reason
        [original] = kafka.records(source, *original_place(found[reason]))
        assert (original.key, original.value, original.timestamp_ms) == (key, value, parked_timestamp(found[reason]))
    assert ("done", "applied") == clinic.state(good)

    limit = {"EMRSYNC_RECORD_BYTES_MAX": "2000"}
    told = [run("dead-letter", "list"), run("dead-letter", "replay", "--all", **limit)]
    ids = {one["reason"]: one["id"] for one in listed(run)}
    shown = (
        "value: is absent (a tombstone)",
        "header created_at: is not UTF-8",
        "entity_id: holds a control character",
    )
    told += [run("dead-letter", "show", ids[reason]) for reason in shown]
    told += [run("dead-letter", "show", ids["header id: is absent"], "--json")]
    assert FAMILY_NAME not in str((told, logged, list(ids)))
    assert "\x1b" not in str([one.out for one in told])
    assert "0 replayed, 14 refused" in told[1].out
    assert FAMILY_NAME in run("dead-letter", "show", ids["header id: is absent"], "--payload").out


def test_a_header_whose_name_is_not_utf_8_stops_nobody(clinic: Clinic, run: Run) -> None:
    """The client for Python gives a list with holes, which would kill each member; often, so that it is hot."""
    clinic.produce_header_name(f"{clinic.prefix}.patient", b"\xff\xfe", times=40)
    good = clinic.happen(event(made.patient()))
    clinic.drain()

    assert ("done", "applied") == clinic.state(good)
    reasons = [one["reason"] for one in listed(run)]
    assert ["headers: a name is not UTF-8, and none of them can be read"] * 40 == reasons
    assert "is still no event: headers: a name" in run("dead-letter", "replay", "0-0").err


def original_place(letter: Record) -> tuple[int, int, int]:
    """Give partition, offset and the offset behind it of what a dead letter was."""
    places = dict(letter.headers)
    offset = int(places["emrsync.offset"] or b"")
    return int(places["emrsync.partition"] or b""), offset, offset + 1


def parked_timestamp(letter: Record) -> int:
    """Give the instant of the record that a dead letter was."""
    return int(dict(letter.headers)["emrsync.timestamp"] or b"")


def test_a_replayed_record_arrives_again_and_is_applied(clinic: Clinic, run: Run) -> None:
    """By a consumer whose limit is higher now; in its own partition, as the same bytes."""
    one = clinic.happen(event(made.patient()))
    clinic.drain(value_bytes_max=20)
    assert ("failed", "failed") == clinic.state(one)
    [letter] = listed(run)
    assert ("0-0", "undecided", clinic.topic(one)) == (letter["id"], letter["state"], letter["topic"])

    said = run("dead-letter", "replay", "0-0")
    assert (0, f"0-0: replayed to {clinic.topic(one)}\n", "") == (said.code, said.out, said.err)
    clinic.drain()
    assert ("done", "applied") == clinic.state(one)
    kafka = KafkaAdmin(clinic.servers)
    [again] = kafka.records(clinic.topic(one), letter["partition"], letter["offset"] + 1, letter["offset"] + 2)
    assert (one.key.entity_id.encode(), one.payload, headers(one)) == (again.key, again.value, list(again.headers))


def test_a_second_replay_must_be_meant(clinic: Clinic, run: Run) -> None:
    """It would do no harm: the ledger makes the event a duplicate."""
    one = clinic.happen(event(made.patient()))
    clinic.drain(value_bytes_max=20)
    run("dead-letter", "replay", "0-0")
    said = run("dead-letter", "replay", "0-0")
    assert (1, "") == (said.code, said.out)
    assert "0-0: not replayed: was replayed by Robin at 20" in said.err
    assert "0 replayed, 0 refused" in run("dead-letter", "replay", "--all").out
    assert 1 == clinic.lag()

    assert 0 == run("dead-letter", "replay", "0-0", "--again").code
    clinic.drain()
    assert ("done", "applied") == clinic.state(one)
    assert 0 == run("dead-letter", "list").code
    assert 1 == count_of(clinic, one)


def count_of(clinic: Clinic, one: Event) -> int:
    """Count the rows of a patient in OpenEMR."""
    query = f"SELECT count(*) FROM {clinic.site.database}.patient_data WHERE pubpid = '{one.key.entity_id}'"
    engine = sa.create_engine(clinic.site.writer_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


def test_all_are_replayed_in_order_but_those_that_are_still_no_events(clinic: Clinic, run: Run) -> None:
    """Oldest first, so that the newest state of an entity is the last to arrive."""
    fields = made.patient()
    events = [clinic.happen(event({**fields, "given_name": name})) for name in ("First", "Second")]
    clinic.happen(event(fields), seq=b"x")
    clinic.drain(value_bytes_max=20)

    dry = run("dead-letter", "replay", "--all", "--dry-run")
    assert (1, 0) == (dry.code, clinic.lag())
    assert "2 would be replayed, 1 refused" in dry.out
    said = run("dead-letter", "replay", "--all")
    assert 1 == said.code
    assert ["0-0", "0-1", "2 replayed, 1 refused"] == [line.split(":")[0] for line in said.out.splitlines()]
    assert "0-2: not replayed: is still no event: header seq: is no whole number" in said.err
    clinic.drain()
    assert "done" == clinic.state(events[1])[0]
    assert ["0-2"] == [one["id"] for one in listed(run, "--state", "undecided")]
    assert ["0-1", "0-0"] == [one["id"] for one in listed(run, "--state", "replayed")]
    assert ["0-2"] == [one["id"] for one in listed(run, "--limit", "1")]


def test_a_discarded_letter_is_remembered_with_who_and_why(clinic: Clinic, run: Run) -> None:
    """And is no finding of `status` any more."""
    clinic.happen(event(made.patient()), seq=b"x")
    clinic.drain()
    assert 1 == run("dead-letter", "list").code
    assert ["dead letters: 1 are undecided"] == [one.split(";")[0] for one in undecided_findings(clinic)]

    assert 1 == run("dead-letter", "discard", "0-0", "--why", " ").code
    assert 2 == run("dead-letter", "discard", "0-0").code
    assert 0 == run("dead-letter", "discard", "0-0", "--why", "a test of the new importer").code
    assert "discarded by Robin at 20" in run("dead-letter", "show", "0-0").out
    assert "a test of the new importer" in run("dead-letter", "show", "0-0").out
    assert "was discarded by Robin" in run("dead-letter", "discard", "0-0", "--why", "again").err
    assert "was discarded by Robin" in run("dead-letter", "replay", "0-0").err
    assert [] == undecided_findings(clinic)


def undecided_findings(clinic: Clinic) -> list[str]:
    """Give what `status` finds about dead letters."""
    found = read_status(OperationsSettings.of(clinic.settings()))
    assert found.dead_letters == 1
    return [one for one in found.findings if one.startswith("dead letters")]


def test_an_id_that_is_none_is_told(clinic: Clinic, run: Run) -> None:
    """With what an id looks like."""
    assert "such as 0-17" in run("dead-letter", "show", "nonsense").err
    assert "0-5: there is no such dead letter" in run("dead-letter", "show", "0-5").err
    assert "7-0: there is no such dead letter" in run("dead-letter", "discard", "7-0", "--why", "x").err
    assert 2 == run("dead-letter", "replay").code
    assert 2 == run("dead-letter", "replay", "0-0", "--all").code


def test_a_record_that_no_consumer_parked_is_shown_and_never_replayed(clinic: Clinic, run: Run) -> None:
    """Somebody has written into the topic."""
    topic = dead_letter_topic(clinic.prefix)
    clinic.produce(topic, b"k", b"v", [("emrsync.reason", b"made up")])
    imitated = [
        (name, {"emrsync.reason": b"[/b]\x1b[2J", "emrsync.topic": b"elsewhere"}.get(name, b"1")) for name in ADDED
    ]
    clinic.produce(topic, b"k", b"v", imitated)

    imitation, letter = listed(run)
    assert letter["reason"].startswith("its last headers are not")
    assert "[/b]\\x1b[2J" == imitation["reason"]
    assert "[/b]\\x1b[2J" in run("dead-letter", "list").out
    assert "came from a topic that is none of ours" in run("dead-letter", "replay", "0-1").err
    assert "was not put there by a consumer" in run("dead-letter", "replay", "0-0").err


def test_of_two_operators_who_decide_at_once_one_is_refused(clinic: Clinic) -> None:
    """The first one's row holds the second until it is committed."""
    settings = OperationsSettings.of(clinic.settings())
    engine = sa.create_engine(clinic.site.writer_url, poolclass=sa.NullPool)
    first, second = (DeadLetterActions(engine, settings, clinic.prefix[-32:]) for _ in range(2))
    refused: list[DeadLetterError] = []

    def decide() -> None:
        try:
            second.take((0, 0), Kind.DISCARDED, before=None, why="mine")
        except DeadLetterError as error:
            refused.append(error)

    other = threading.Thread(target=decide)

    def act() -> None:
        other.start()
        other.join(0.5)
        assert other.is_alive(), "the second decided before the first was through"

    first.take((0, 0), Kind.REPLAYED, before=None, act=act)
    other.join()

    assert ["0-0: somebody else has just decided; look again"] == [str(one) for one in refused]
    assert [Kind.REPLAYED] == [one.kind for one in first.newest().values()]


def test_a_replay_that_kafka_does_not_take_is_not_remembered(clinic: Clinic) -> None:
    """The letter stays undecided."""
    settings = OperationsSettings.of(clinic.settings())
    engine = sa.create_engine(clinic.site.writer_url, poolclass=sa.NullPool)
    actions = DeadLetterActions(engine, settings, clinic.prefix[-32:])

    def fail() -> None:
        raise DeadLetterError("away")

    with pytest.raises(DeadLetterError, match="away"):
        actions.take((0, 0), Kind.REPLAYED, before=None, act=fail)
    assert {} == actions.newest()


def test_decisions_do_not_pass_to_a_topic_that_was_made_anew(clinic: Clinic, run: Run) -> None:
    """Its offsets begin again at 0."""
    clinic.happen(event(made.patient()), seq=b"x")
    clinic.drain()
    run("dead-letter", "discard", "0-0", "--why", "old")
    remove_topics(clinic.admin, [dead_letter_topic(clinic.prefix)])
    make_topics(clinic.servers, clinic.prefix)
    clinic.happen(event(made.patient()), seq=b"x")
    clinic.drain()

    assert ["undecided"] == [one["state"] for one in listed(run)]


def test_the_offset_stays_while_the_dead_letter_topic_is_away(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the record is parked once the topic is back."""
    monkeypatch.setattr("consumer.kafka.DEAD_LETTER_FLUSH_S", 2.0)
    remove_topics(clinic.admin, [dead_letter_topic(clinic.prefix)])
    clinic.happen(event(made.patient()), seq=b"x")
    with clinic.member() as loop, structlog.testing.capture_logs() as entries:
        clinic.turn_until(loop, lambda: any("its offset stays" in str(one.get("reason")) for one in entries))
        assert 1 == clinic.lag()

        make_topics(clinic.servers, clinic.prefix)
        clinic.turn_until(loop, lambda: clinic.lag() == 0)
    assert 1 == KafkaAdmin(clinic.servers).kept(dead_letter_topic(clinic.prefix)).count


def test_the_offset_stays_when_the_dead_letter_topic_takes_less_than_the_record(clinic: Clinic) -> None:
    """A person must act, so the process ends and says what to look at."""
    topic = dead_letter_topic(clinic.prefix)
    shrink(clinic, topic, 500)
    clinic.happen(event(made.patient(suffix="".join(f"{number:x}" for number in range(900)))), seq=b"x")
    with clinic.member() as loop, pytest.raises(MisconfiguredError, match=rf"{topic} refuses .*emrsync provision"):
        clinic.turn_until(loop, lambda: False)

    assert 1 == clinic.lag()
    assert 0 == KafkaAdmin(clinic.servers).kept(topic).count


def shrink(clinic: Clinic, topic: str, bytes_max: int) -> None:
    """Let a topic take only small records."""
    change = ConfigEntry("max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    for changed in clinic.admin.incremental_alter_configs([resource]).values():
        changed.result(60)


def test_whatever_an_entity_topic_takes_the_dead_letter_topic_takes(clinic: Clinic) -> None:
    """A record at the topic's limit, and one that is far above it and was taken compressed."""
    one = event(made.patient())
    # Hardly 300 bytes are left for what a record has beside its value, and none for a reason.
    clinic.produce(clinic.topic(one), b"P-1", os.urandom(5_999_700), headers(one))
    clinic.produce(clinic.topic(one), b"P-1", b"x" * 20_000_000, headers(one))
    clinic.drain()

    kafka = KafkaAdmin(clinic.servers)
    topic = dead_letter_topic(clinic.prefix)
    sizes = [len(one.value or b"") for one in kafka.records(topic, 0, *kafka.kept(topic).offsets[0])]
    assert [5_999_700, 20_000_000] == sizes


def test_too_many_bad_records_stop_the_group_until_somebody_lets_them_pass(clinic: Clinic) -> None:
    """A restarted member, and another one, park nothing more; `status` says where they stopped."""
    limits = {"window_records": 10, "share_max": 0.2}
    for _ in range(2):
        clinic.happen(event(made.patient(patient_id="P-1")), seq=b"x")
    clinic.drain(**limits)
    for _ in range(4):
        clinic.happen(event(made.patient(patient_id="P-1")), seq=b"x")
    topic = dead_letter_topic(clinic.prefix)
    for _ in range(2):
        with clinic.member(**limits) as loop, pytest.raises(TooManyDeadLettersError, match="SHARE_MAX=1"):
            clinic.turn_until(loop, lambda: False)
        assert 2 == KafkaAdmin(clinic.servers).kept(topic).count
        assert 4 == clinic.lag()
    found = read_status(OperationsSettings.of(clinic.settings())).findings
    assert ["stopped at offset 2"] == [one.split(": ")[1].split(",")[0] for one in found if "partition" in one]

    clinic.drain(share_max=1)
    assert 6 == KafkaAdmin(clinic.servers).kept(topic).count
    assert [] == [one for one in read_status(OperationsSettings.of(clinic.settings())).findings if "partition" in one]
