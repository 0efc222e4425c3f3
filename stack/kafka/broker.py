"""Kafka: log folder, configuration and readiness."""

import shutil
from pathlib import Path

from stack.commands import run
from stack.jmx import agent
from stack.jvm import java, locale_variables, server_options, write_logging
from stack.kafka.wire import broker_count
from stack.layout import own_file, own_folder
from stack.ports import LOOPBACK
from stack.programs import Program
from stack.service import PROBE_LIMIT_S, Service, Site
from stack.templates import render

TEMPLATE = Path(__file__).parent / "server.properties"
HEAP_MB = 512
FORMAT_LIMIT_S = 120


def service(site: Site) -> Service:
    """Return the broker as configured for this home."""
    folder = site.services / "kafka"
    port = site.port("kafka")
    properties = folder / "server.properties"
    program = Program(
        name="kafka",
        argv=java(
            "kafka.Kafka",
            str(properties),
            jars=site.kafka_jars,
            options=(*server_options(folder, HEAP_MB), *agent.options(site.jmx, folder, 0)),
        ),
        environment=locale_variables({}),
        directory=folder,
        user=site.accounts.jvm,
        stop_limit_s=45,
    )
    return Service(
        program=program,
        port=port,
        ready_limit_s=300,
        prepare=lambda: _prepare(site, folder, properties),
        probe=lambda: _probe(port),
    )


def _prepare(site: Site, folder: Path, properties: Path) -> None:
    user = site.accounts.jvm
    own_folder(folder, user)
    write_logging(folder, user)
    agent.write_rules(site.jmx, "kafka", folder, user)
    log_dir = folder / "log"
    _write_properties(site, properties, log_dir)
    if not log_dir.exists():
        _format(site, folder, log_dir)


def _write_properties(site: Site, properties: Path, log_dir: Path) -> None:
    values: dict[str, str | int] = {
        "PORT": site.port("kafka"),
        "CONTROLLER_PORT": site.port("kafka-controller"),
        "LOG_DIR": str(log_dir),
    }
    own_file(properties, render(TEMPLATE.read_text(encoding="utf-8"), values), site.accounts.jvm)


def _format(site: Site, folder: Path, log_dir: Path) -> None:
    # Made beside and renamed: an interrupted format leaves nothing that looks like a broker's log.
    draft = folder / "log.new"
    shutil.rmtree(draft, ignore_errors=True)
    properties = folder / "format.properties"
    _write_properties(site, properties, draft)
    argv = java(
        "kafka.tools.StorageTool",
        "format",
        "--cluster-id",
        site.state.kafka_cluster_id,
        "--config",
        str(properties),
        jars=site.kafka_jars,
        # a tool of one second: compiling its code well would take longer than running it
        options=("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}"),
    )
    run(argv, limit_s=FORMAT_LIMIT_S, user=site.accounts.jvm, directory=folder)
    properties.unlink()
    draft.rename(log_dir)


def _probe(port: int) -> str | None:
    try:
        brokers = broker_count(LOOPBACK, port, PROBE_LIMIT_S)
    except OSError as error:
        return str(error)
    return None if brokers else "the broker is not registered yet"
