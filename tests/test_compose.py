"""The compose file and the stack without Docker are one chain: same versions, same settings, same contract files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from connectors.config import PREFIX
from consumer.config import ConsumerSettings, RetrySettings
from consumer.openemr.installation import DEFAULT_VERSION
from operations.app_commands import FINISH_S
from operations.config import OperationsSettings
from producer_app.config import AppSettings
from stack.versions import image_tags, maven_properties, maven_versions

ROOT: Final = Path(__file__).parents[1]
COMPOSE: Final[Mapping[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: Final[Mapping[str, Any]] = COMPOSE["services"]
ONE_SHOTS: Final = {"secrets", "provision"}
CONDITIONS: Final = {"service_healthy", "service_completed_successfully"}

# What differs on purpose between one machine and containers.
KAFKA_ADDRESSES: Final = {
    "controller.quorum.voters",
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "log.dirs",
}
NATIVE_ONLY: Final = {
    # sizes for one machine that runs everything
    "num.network.threads",
    "num.io.threads",
    "num.recovery.threads.per.data.dir",
    "log.index.size.max.bytes",
    "offsets.topic.num.partitions",
    "transaction.state.log.num.partitions",
    "share.coordinator.state.topic.num.partitions",
    # how fast a killed broker comes back in tests
    "broker.session.timeout.ms",
    "broker.heartbeat.interval.ms",
}
POSTGRES_IN_STEP: Final = (
    "wal_level",
    "max_replication_slots",
    "max_wal_senders",
    "max_slot_wal_keep_size",
    "max_connections",
    "timezone",
)
MARIADB_IN_STEP: Final = (
    "character-set-server",
    "collation-server",
    "default-time-zone",
    "skip-name-resolve",
    "max_connections",
    "innodb_buffer_pool_size",
    "innodb_log_file_size",
    "innodb_flush_log_at_trx_commit",
)


def settings_of(path: str) -> dict[str, str]:
    """Read `name = value` lines, without comments and quotes."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'") for name, value in pairs}


def options_of(service: str) -> dict[str, str]:
    """Read the options that the compose file starts a database with."""
    words = [word.removeprefix("--") for word in SERVICES[service]["command"] if "=" in word]
    return {name.replace("-", "_"): value for name, value in (word.split("=", 1) for word in words)}


def test_kafka_has_the_version_of_the_list() -> None:
    """The jars of the native stack and the image are one release."""
    assert f"apache/kafka:{maven_versions()['kafka']}" == SERVICES["kafka"]["image"]


def test_connect_is_built_from_the_list_and_the_poms_and_names_no_version_itself() -> None:
    """Debezium's version stands in one place."""
    text = (ROOT / "docker" / "connect.Dockerfile").read_text(encoding="utf-8")

    for source in ("stack/versions.toml", "stack/kafka/pom.xml", "stack/debezium/pom.xml"):
        assert f"COPY {source} " in text
    assert "COPY connectors/connect/worker.properties " in text
    assert [] == [version for version in maven_versions().values() if len(version) > 4 and version in text]


def base_images() -> list[str]:
    """Give every image that is not built here, from the compose file and the Dockerfiles."""
    named = [one["image"] for one in SERVICES.values() if not one["image"].endswith(":local")]
    for path in sorted((ROOT / "docker").glob("*.Dockerfile")):
        named += re.findall(r"(?m)^FROM (\S+)", path.read_text(encoding="utf-8"))
    return named


def test_every_base_image_has_the_tag_of_the_one_list() -> None:
    """Down to the last number, and none is listed in vain."""
    wanted = {f"{name}:{tag}" for name, tag in image_tags().items()} | {f"apache/kafka:{maven_versions()['kafka']}"}

    assert wanted == set(base_images())
    assert all(re.match(r"\d+\.\d+(\.\d+)?", tag) for tag in image_tags().values())
    assert len(base_images()) == len(set(base_images()))


def test_the_databases_are_those_of_the_native_stack() -> None:
    """Debian 12's PostgreSQL, and the MariaDB that the facts were taken on."""
    assert image_tags()["postgres"].startswith("15.")
    assert image_tags()["mariadb"].startswith("10.11.")


def test_maven_gets_its_versions_in_the_image_and_no_others() -> None:
    """The expression is run as it stands in the Dockerfile."""
    text = (ROOT / "docker" / "connect.Dockerfile").read_text(encoding="utf-8")
    [command] = re.findall(r"(?m)^RUN (sed .* versions\.toml) > versions\.args$", text)
    folder = ROOT / "stack"
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)

    assert sorted(maven_properties()) == sorted(done.stdout.split())


def test_images_run_as_the_user_of_the_manifests() -> None:
    """A volume that one made, the other can read."""
    for path in sorted((ROOT / "docker").glob("*.Dockerfile")):
        assert " --uid 10001 " in path.read_text(encoding="utf-8"), path
    manifests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy").rglob("*.yaml"))
    assert {"10001"} == set(re.findall(r"runAsUser: (\d+)", manifests))


def test_a_plugin_that_is_asked_for_and_cannot_be_had_ends_the_build() -> None:
    """The step is run as it stands in the Dockerfile, with another fetch."""
    text = (ROOT / "docker" / "connect.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    [default] = re.findall(r'(?m)^ARG PLUGINS="(.+)"$', text)
    [step] = re.findall(r"(?m)^RUN mkdir -p \S+ \S+ \S+ +&& (for .*)$", text)
    command = step.replace("sh /usr/local/bin/fetch-plugin", "fetch")
    fetch = 'fetch() { echo "$1"; test "$1" != mariadb; }; '

    def built(plugins: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["sh", "-c", fetch + command], env={"PLUGINS": plugins}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.split()

    assert (1, ["postgres", "mysql", "mariadb"]) == built(default)
    assert (0, ["postgres", "mysql"]) == built("postgres mysql")
    assert {"PLUGINS": "postgres"} == SERVICES["connect"]["build"]["args"]


def test_kafka_has_the_settings_of_the_native_broker() -> None:
    """Only addresses, folders and sizes may differ."""
    native = settings_of("stack/kafka/server.properties")
    environment = SERVICES["kafka"]["environment"]
    differing = {
        name: value
        for name, value in native.items()
        if name not in KAFKA_ADDRESSES | NATIVE_ONLY
        and str(environment.get("KAFKA_" + name.upper().replace(".", "_"))) != value
    }

    assert {} == differing
    assert NATIVE_ONLY <= set(native)


@pytest.mark.parametrize(
    ("service", "native", "names"),
    [
        ("postgres", "stack/postgresql/postgresql.conf", POSTGRES_IN_STEP),
        ("mariadb", "stack/mariadb/mariadb.conf", MARIADB_IN_STEP),
    ],
)
def test_databases_have_the_settings_of_the_native_ones(service: str, native: str, names: tuple[str, ...]) -> None:
    """What the pipeline depends on is said in both places."""
    wanted = settings_of(native)
    given = options_of(service)

    assert {name: wanted[name] for name in names} == {name: given[name.replace("-", "_")] for name in names}


def test_the_worker_script_fills_every_placeholder() -> None:
    """A placeholder left over would be a broken worker."""
    properties = (ROOT / "connectors" / "connect" / "worker.properties").read_text(encoding="utf-8")
    logins = (ROOT / "connectors" / "connect" / "rest-jaas.conf").read_text(encoding="utf-8")
    script = (ROOT / "docker" / "connect-worker").read_text(encoding="utf-8")

    assert set(re.findall(r"@[A-Z_]+@", properties + logins)) == set(re.findall(r"@[A-Z_]+@", script))
    assert "listeners=http://127.0.0.1:" in properties
    assert "rest.advertised.host.name=" in properties


def variables() -> Iterator[tuple[str, str]]:
    """Give service and name of every variable of ours."""
    for name, service in SERVICES.items():
        yield from ((name, variable) for variable in service.get("environment", {}) if variable.startswith(PREFIX))


def test_every_variable_is_a_setting() -> None:
    """A mistyped variable would be ignored in silence."""
    fields = {
        *OperationsSettings.model_fields,
        *ConsumerSettings.model_fields,
        *RetrySettings.model_fields,
        *AppSettings.model_fields,
    }
    unknown = [
        (service, name)
        for service, name in variables()
        if name.removeprefix(PREFIX).removesuffix("_FILE").lower() not in fields
    ]

    assert [] == unknown


def test_the_openemr_database_has_the_default_version() -> None:
    """Containers and native stack show the same OpenEMR."""
    assert SERVICES["provision"]["command"][-1] == DEFAULT_VERSION


def test_every_service_is_waited_for() -> None:
    """Start order is by health, and one-shots by their success."""
    for name, service in SERVICES.items():
        assert {wait["condition"] for wait in service.get("depends_on", {}).values()} <= CONDITIONS, name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for other, wait in service.get("depends_on", {}).items():
            assert (wait["condition"] == "service_completed_successfully") == (other in ONE_SHOTS), name
        assert ("healthcheck" in service) == (name not in ONE_SHOTS | {"consumer", "retrier", "watch"}), name


def test_two_consumers_run() -> None:
    """A group of one shows no group."""
    assert 2 == SERVICES["consumer"]["deploy"]["replicas"]


def test_two_workers_of_one_group_run_and_everybody_knows_both() -> None:
    """A worker that dies leaves one that answers and takes its task."""
    first, second = SERVICES["connect"], SERVICES["connect-2"]
    addresses = {
        service["environment"]["EMRSYNC_CONNECT_URL"]
        for service in SERVICES.values()
        if "EMRSYNC_CONNECT_URL" in service.get("environment", {})
    }

    assert {name: value for name, value in first.items() if name != "ports"} == {
        name: value for name, value in second.items() if name != "ports"
    }
    assert addresses == {"http://connect:8083,http://connect-2:8083"}


def test_a_watch_restarts_the_connector_and_knows_no_secret_of_an_administrator() -> None:
    """It asks the outbox, the topics and the workers."""
    assert ["connector", "watch"] == SERVICES["watch"]["command"]
    assert set(SERVICES["watch"]["environment"]) == {
        "EMRSYNC_SOURCE_URL_FILE",
        "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS",
        "EMRSYNC_CONNECT_URL",
    }


def test_a_retrier_runs_with_the_consumers_accounts() -> None:
    """It needs both databases and nothing else."""
    environment = SERVICES["retrier"]["environment"]

    assert ["retry", "run"] == SERVICES["retrier"]["command"]
    assert environment == {name: SERVICES["consumer"]["environment"][name] for name in environment}


def test_the_application_has_the_time_that_its_requests_may_take() -> None:
    """Docker gives ten seconds by itself, and requests under way take all of them."""
    longest_s = AppSettings.model_fields["app_lock_timeout_seconds"].default + FINISH_S

    assert int(SERVICES["app"]["stop_grace_period"].removesuffix("s")) >= longest_s + 5


def test_ports_are_published_on_loopback_only() -> None:
    """Neither Connect nor Kafka asks who is there."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert ports
    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]


def test_secrets_are_files_that_only_their_users_see() -> None:
    """No password stands in the file, and a consumer is not given an administrator's."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    folders = {
        name: {volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("secrets-")}
        for name, service in SERVICES.items()
    }

    assert [] == re.findall(r"(?i)password(?!_FILE): *[^\s/]", text)
    assert {"secrets-consumer"} == folders["consumer"] == folders["retrier"]
    assert {"secrets-app"} == folders["app"]
    assert {"secrets-cdc"} == folders["connect"] == folders["connect-2"]


def test_named_volumes_are_declared() -> None:
    """Compose refuses a file that names an unknown one."""
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith((".", "/"))
    }

    assert set(COMPOSE["volumes"]) == named
