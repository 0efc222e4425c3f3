"""The connector templates: every setting that was verified, no secret, nothing left unfilled, every reason told."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path

import pytest

from connectors import topics
from connectors.connector_config import (
    ConnectorConfigError,
    ConnectorPlace,
    SourceEngine,
    connector_config,
    fill,
    template,
)
from connectors.events import CAUSE_HEADER, HEADERS

SETTINGS_PAGE = Path(__file__).parents[3] / "docs" / "connector-settings.md"

PLACE = ConnectorPlace(
    engine=SourceEngine.POSTGRESQL,
    host="db.example",
    port=5432,
    database="clinic",
    user="emrsync_cdc",
    kafka_bootstrap_servers="kafka.example:9092",
)

# Written by hand from what was verified against real servers, so that a template cannot lose one unnoticed.
MANDATORY = {
    "tasks.max": "1",
    "database.hostname": "db.example",
    "database.user": "emrsync_cdc",
    "database.password": "${env:EMRSYNC_CDC_PASSWORD}",
    "topic.prefix": "emrsync",
    "skipped.operations": "u,d,t",
    "snapshot.mode": "when_needed",
    "max.batch.size": "1",
    "heartbeat.interval.ms": "10000",
    "extended.headers.enabled": "false",
    "event.converting.failure.handling.mode": "fail",
    "errors.max.retries": "30",
    "errors.tolerance": "none",
    "read.only": "true",
    "signal.enabled.channels": "source",
    "incremental.snapshot.chunk.size": "1024",
    "notification.enabled.channels": "sink",
    "notification.sink.topic.name": "emrsync.notifications",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "header.converter": "org.apache.kafka.connect.storage.SimpleHeaderConverter",
    "predicates": "isOutbox,isSignal",
    "predicates.isOutbox.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
    "predicates.isSignal.pattern": r"emrsync\.[^.]+\.sync_signal",
    "transforms": "signals,outbox",
    "transforms.signals.type": "org.apache.kafka.connect.transforms.Filter",
    "transforms.signals.predicate": "isSignal",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.predicate": "isOutbox",
    "transforms.outbox.table.field.event.id": "outbox_id",
    "transforms.outbox.table.field.event.key": "entity_id",
    "transforms.outbox.table.field.event.payload": "payload",
    "transforms.outbox.route.by.field": "entity_type",
    "transforms.outbox.route.topic.replacement": "emrsync.${routedByValue}",
    "transforms.outbox.table.op.invalid.behavior": "error",
    "topic.creation.default.partitions": "6",
    "topic.creation.default.replication.factor": "-1",
    "topic.creation.default.cleanup.policy": "delete",
    "producer.override.enable.idempotence": "true",
    "producer.override.linger.ms": "0",
    "producer.override.compression.type": "lz4",
    "producer.override.batch.size": "131072",
    "producer.override.max.request.size": "5242880",
}
MANDATORY_BY_ENGINE = {
    SourceEngine.POSTGRESQL: {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "poll.interval.ms": "3",
        "plugin.name": "pgoutput",
        "publication.name": "emrsync",
        "publication.autocreate.mode": "disabled",
        "slot.name": "emrsync",
        "heartbeat.action.query": "SELECT pg_logical_emit_message(true, 'emrsync-heartbeat', '')",
        "message.prefix.exclude.list": "emrsync-heartbeat",
        "table.include.list": "public.sync_outbox,public.sync_signal",
        "signal.data.collection": "public.sync_signal",
        "snapshot.select.statement.overrides": "public.sync_outbox",
        "snapshot.select.statement.overrides.public.sync_outbox": (
            "SELECT * FROM public.sync_outbox WHERE status <> 'done' ORDER BY seq"
        ),
    },
    SourceEngine.MYSQL: {
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "database.ssl.mode": "preferred",
    },
    SourceEngine.MARIADB: {
        "connector.class": "io.debezium.connector.mariadb.MariaDbConnector",
        "database.ssl.mode": "disable",
    },
}
MANDATORY_OF_BINLOGS = {
    "database.server.id": "519860",
    "poll.interval.ms": "2",
    "connect.keep.alive.interval.ms": "5000",
    "schema.history.internal.kafka.topic": "emrsync.schema-history",
    "schema.history.internal.kafka.bootstrap.servers": "kafka.example:9092",
    "schema.history.internal.store.only.captured.tables.ddl": "true",
    "schema.history.internal.store.only.captured.databases.ddl": "true",
    "schema.history.internal.skip.unparseable.ddl": "true",
    "table.include.list": "clinic.sync_outbox,clinic.sync_signal",
    "signal.data.collection": "clinic.sync_signal",
    "snapshot.select.statement.overrides": "clinic.sync_outbox",
    "snapshot.select.statement.overrides.clinic.sync_outbox": (
        "SELECT * FROM clinic.sync_outbox WHERE status <> 'done' ORDER BY seq"
    ),
}
MANDATORY_OF_WORKERS = {
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    "config.providers.env.param.allowlist.pattern": "EMRSYNC_.*",
    "offset.flush.interval.ms": "5000",
    "scheduled.rebalance.max.delay.ms": "0",
    "connector.client.config.override.policy": "All",
    "plugin.path": "@PLUGIN_PATH@",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
}


@pytest.mark.parametrize("engine", SourceEngine)
def test_a_configuration_holds_every_verified_setting(engine: SourceEngine) -> None:
    """Nothing that was verified is lost or left to a default."""
    wanted = MANDATORY | MANDATORY_BY_ENGINE[engine]
    if engine is not SourceEngine.POSTGRESQL:
        wanted |= MANDATORY_OF_BINLOGS

    config = connector_config(dataclasses.replace(PLACE, engine=engine))

    assert wanted == {name: config.get(name) for name in wanted}


@pytest.mark.parametrize("engine", SourceEngine)
def test_nothing_is_left_unfilled_and_no_template_holds_a_secret(engine: SourceEngine) -> None:
    """The password is a reference that the worker resolves."""
    config = connector_config(dataclasses.replace(PLACE, engine=engine))

    assert [line for line in (*config, *config.values()) if re.search(r"@[A-Z_]+@", line)] == []
    assert [value for name, value in config.items() if "password" in name] == ["${env:EMRSYNC_CDC_PASSWORD}"]


@pytest.mark.parametrize("engine", SourceEngine)
def test_the_router_gives_every_header_of_the_contract(engine: SourceEngine) -> None:
    """What the connector places is what the consumer decodes."""
    placement = template(engine)["transforms.outbox.table.fields.additional.placement"]

    placed = [one.removesuffix(":header") for one in placement.split(",")]

    assert {*HEADERS, CAUSE_HEADER} == {"id", *placed}  # the router always adds id itself


@pytest.mark.parametrize("engine", SourceEngine)
def test_what_the_consumer_writes_back_is_not_streamed(engine: SourceEngine) -> None:
    """Marks are no part of an event."""
    config = connector_config(dataclasses.replace(PLACE, engine=engine))

    excluded = {column.rsplit(".", maxsplit=1)[-1] for column in config["column.exclude.list"].split(",")}

    assert {"error_message", "error_class", "processed_at", "next_attempt_at"} == excluded


def test_routed_topics_are_the_ones_that_are_created() -> None:
    """A record for a topic that nobody made would stop the connector."""
    replacement = connector_config(PLACE)["transforms.outbox.route.topic.replacement"]

    routed = {replacement.replace("${routedByValue}", kind) for kind in ("patient", "encounter", "order")}

    assert set(topics.entity_topics()) == routed


def test_an_unfilled_placeholder_is_named() -> None:
    """Whoever fills a template learns what is missing."""
    with pytest.raises(ConnectorConfigError, match="CDC_HOST"):
        fill({"database.hostname": "@CDC_HOST@"}, {"CDC_HOST": ""})


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("database", dataclasses.replace(PLACE, database="a.*")),
        ("topic_prefix", dataclasses.replace(PLACE, topic_prefix="a.*")),
    ],
)
def test_a_name_that_would_change_a_pattern_is_refused(field: str, place: ConnectorPlace) -> None:
    """Both names stand in regular expressions."""
    with pytest.raises(ConnectorConfigError, match=field):
        connector_config(place)


def test_worker_properties_hold_every_verified_setting() -> None:
    """The other half of the connector's settings."""
    text = resources.files("connectors.connect").joinpath("worker.properties").read_text(encoding="utf-8")
    found = dict(line.split("=", maxsplit=1) for line in text.splitlines() if "=" in line and not line.startswith("#"))

    assert {name: found.get(name) for name in MANDATORY_OF_WORKERS} == MANDATORY_OF_WORKERS
    assert "env" in found["config.providers"].split(",")
    assert found["listeners"].startswith("http://127.0.0.1:")  # the interface has no authentication


def test_every_setting_has_its_reason_on_the_page_and_no_other_is_there() -> None:
    """JSON has no comments, so the page must not fall behind."""
    initials = {"P": SourceEngine.POSTGRESQL, "M": SourceEngine.MYSQL, "A": SourceEngine.MARIADB}
    told: dict[SourceEngine, set[str]] = {engine: set() for engine in SourceEngine}
    for line in SETTINGS_PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `"):
            continue
        assert len(cells) == 3, line
        assert len(cells[2]) > 15, f"no reason: {line}"
        for initial in cells[1].split():
            told[initials[initial]] |= set(re.findall(r"`([^`]+)`", cells[0]))

    assert {engine: set(template(engine)) for engine in SourceEngine} == told
