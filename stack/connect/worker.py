"""Kafka Connect: worker configuration, rendered from the contract's template, and readiness."""

from pathlib import Path

import httpx

from stack.jmx import agent
from stack.jvm import java, locale_variables, server_options, write_logging
from stack.layout import own_file, own_folder
from stack.ports import LOOPBACK
from stack.postgresql.server import DATABASE as SOURCE_DATABASE
from stack.programs import Program
from stack.service import PROBE_LIMIT_S, Service, Site
from stack.templates import render

TEMPLATE = Path(__file__).parents[2] / "connectors" / "connect" / "worker.properties"
JAAS = TEMPLATE.with_name("rest-jaas.conf")
REST_EXTENSION = "org.apache.kafka.connect.rest.basic.auth.extension.BasicAuthSecurityRestExtension"
REST_USER = "emrsync"
HEAP_MB = 512
POSTGRES_PLUGIN = "io.debezium.connector.postgresql.PostgresConnector"


def worker_name(number: int) -> str:
    """Return the program name of a worker, counted from 1."""
    return f"connect-{number}"


def connect_url(port: int) -> str:
    """Return the address of a worker's REST interface."""
    return f"http://{LOOPBACK}:{port}"


def connector_variables(site: Site) -> dict[str, str]:
    """Return what connector configurations may take from the worker's environment."""
    return {
        "EMRSYNC_CDC_USER": "emrsync_cdc",
        "EMRSYNC_CDC_PASSWORD": site.password("emrsync_cdc"),
        "EMRSYNC_CDC_HOST": LOOPBACK,
        "EMRSYNC_CDC_PORT": str(site.port("postgresql")),
        "EMRSYNC_CDC_DATABASE": SOURCE_DATABASE,
        "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{site.port('kafka')}",
    }


def rest_variables(site: Site) -> dict[str, str]:
    """Return user and password of the REST interface, or nothing where it asks for none."""
    if not site.state.connect_auth:
        return {}
    return {"EMRSYNC_CONNECT_USER": REST_USER, "EMRSYNC_CONNECT_PASSWORD": site.password("connect_rest")}


def service(site: Site, number: int) -> Service:
    """Return one worker as configured for this home."""
    name = worker_name(number)
    folder = site.services / name
    port = site.port(name)
    properties = folder / "worker.properties"
    program = Program(
        name=name,
        argv=java(
            "org.apache.kafka.connect.cli.ConnectDistributed",
            str(properties),
            jars=site.kafka_jars,
            options=(
                *server_options(folder, HEAP_MB),
                *agent.options(site.jmx, folder, number),
                *_rest_options(site, folder),
            ),
        ),
        environment=locale_variables(connector_variables(site)),
        directory=folder,
        user=site.accounts.jvm,
        stop_limit_s=45,
    )
    return Service(
        program=program,
        port=port,
        ready_limit_s=300,
        prepare=lambda: _prepare(site, folder, properties, port),
        probe=lambda: _probe(site, port),
    )


def _rest_options(site: Site, folder: Path) -> tuple[str, ...]:
    return (f"-Djava.security.auth.login.config={folder / 'jaas.conf'}",) if site.state.connect_auth else ()


def _prepare(site: Site, folder: Path, properties: Path, port: int) -> None:
    user = site.accounts.jvm
    own_folder(folder, user)
    write_logging(folder, user)
    agent.write_rules(site.jmx, "connect", folder, user)
    values: dict[str, str | int] = {
        "KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{site.port('kafka')}",
        "REST_PORT": port,
        # One for all workers: a connector's configuration names a file by its path, and runs on any of them.
        "SECRETS_DIR": str(own_folder(site.services / "connect-secrets", user)),
        "REST_EXTENSIONS": REST_EXTENSION if site.state.connect_auth else "",
        "PLUGIN_PATH": ",".join(str(plugins) for plugins in site.plugin_folders),
    }
    if site.state.connect_auth:
        logins = own_file(folder / "rest.properties", f"{REST_USER}={site.password('connect_rest')}\n", user)
        own_file(folder / "jaas.conf", render(JAAS.read_text(encoding="utf-8"), {"LOGINS": str(logins)}), user)
    own_file(properties, render(TEMPLATE.read_text(encoding="utf-8"), values), user)


def _probe(site: Site, port: int) -> str | None:
    login = tuple(rest_variables(site).values())
    try:
        with httpx.Client(
            base_url=connect_url(port),
            auth=(login[0], login[1]) if login else None,
            timeout=PROBE_LIMIT_S,
            trust_env=False,
        ) as client:
            # The REST server listens before the worker has joined its group; /health waits for that.
            client.get("/health").raise_for_status()
            plugins = client.get("/connector-plugins").raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return str(error) or type(error).__name__
    if POSTGRES_PLUGIN not in {plugin.get("class") for plugin in plugins}:
        return f"the worker runs without {POSTGRES_PLUGIN}"
    return None
