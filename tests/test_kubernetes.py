"""deploy/kubernetes is the pipeline of this repository: same versions, settings, connector, accounts and limits."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from connectors.config import PREFIX
from connectors.connector_config import CONNECTOR_NAME, ConnectorPlace, SourceEngine, connector_config
from consumer.config import ConsumerSettings, RetrySettings
from operations.config import OperationsSettings
from operations.kafka_group import GROUP_SETTINGS
from operations.members import STOP_LIMIT_S
from stack.versions import maven_versions

ROOT: Final = Path(__file__).parents[1]
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS: Final = sorted(KUBERNETES.rglob("kustomization.yaml"))
OVERLAYS: Final = sorted(path.parent.name for path in (KUBERNETES / "overlays").glob("*/kustomization.yaml"))

# What a worker on one machine has and workers by Strimzi have not, or have from Strimzi itself.
WORKER_ONLY: Final = {
    "bootstrap.servers",
    "group.id",
    "listeners",
    "config.storage.topic",
    "offset.storage.topic",
    "status.storage.topic",
    "plugin.path",
    # copies: one broker here, the broker's default there
    "config.storage.replication.factor",
    "offset.storage.replication.factor",
    "status.storage.replication.factor",
}
WORKER_ONLY_PREFIXES: Final = ("rest.", "config.providers", "admin.listeners")


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Look at the keys first."""
        keys = [self.construct_object(key, deep=True) for key, _value in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands twice"
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file."""
    text = path.read_text(encoding="utf-8")
    return [one for one in yaml.load_all(text, StrictLoader) if one]


def resources(path: Path) -> list[dict[str, Any]]:
    """Read the objects that a kustomization names itself."""
    named = yaml.safe_load(path.read_text(encoding="utf-8")).get("resources", ())
    return [one for name in named if (path.parent / name).is_file() for one in documents(path.parent / name)]


OBJECTS: Final = [one for path in KUSTOMIZATIONS for one in resources(path)]
PODS: Final = [one for one in OBJECTS if one["kind"] in {"Deployment", "Job"}]


def of_kind(kind: str) -> list[dict[str, Any]]:
    """Give the objects of a kind."""
    return [one for one in OBJECTS if one["kind"] == kind]


def the(kind: str) -> dict[str, Any]:
    """Give the only object of a kind."""
    [found] = of_kind(kind)
    return found


def containers(workload: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Give a workload's containers."""
    found: Sequence[Mapping[str, Any]] = workload["spec"]["template"]["spec"]["containers"]
    return found


def test_every_file_is_named_by_a_kustomization() -> None:
    """What is not applied would be believed to be."""
    for path in KUSTOMIZATIONS:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        generated = [name for one in read.get("configMapGenerator", ()) for name in one["files"]]
        beside = {one.name for one in path.parent.glob("*.y*ml")} - {path.name}
        local = {name for name in read.get("resources", ()) if "/" not in name}
        assert beside == local | set(generated), path


def test_versions_are_those_of_the_one_list() -> None:
    """Kafka and Debezium by stack/versions.toml, the image by the project."""
    connect = the("KafkaConnect")["spec"]
    artifacts = [artifact for plugin in connect["build"]["plugins"] for artifact in plugin["artifacts"]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    base = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text(encoding="utf-8"))

    assert connect["version"] == maven_versions()["kafka"]
    assert {artifact["version"] for artifact in artifacts} == {maven_versions()["debezium"]}
    assert {image["name"]: image["newTag"] for image in base["images"]} == {"emrsync": project}
    assert connect["build"]["output"]["image"].endswith(f":{project}")
    assert all(container["image"] == "emrsync" for pod in PODS for container in containers(pod))


def test_the_connector_is_the_one_that_is_tested_here() -> None:
    """By the template, for the addresses of config.yaml."""
    settings = the("ConfigMap")["data"]
    place = ConnectorPlace(
        engine=SourceEngine.POSTGRESQL,
        host=settings["EMRSYNC_CDC_HOST"],
        port=int(settings["EMRSYNC_CDC_PORT"]),
        database=settings["EMRSYNC_CDC_DATABASE"],
        user=settings["EMRSYNC_CDC_USER"],
        kafka_bootstrap_servers=settings["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"],
    )
    connector = the("KafkaConnector")
    spec = connector["spec"]
    given = {"connector.class": spec["class"], "tasks.max": str(spec["tasksMax"]), **spec["config"]}

    assert connector["metadata"]["name"] == CONNECTOR_NAME
    assert connector["metadata"]["labels"]["strimzi.io/cluster"] == the("KafkaConnect")["metadata"]["name"]
    assert dict(connector_config(place)) == given
    assert the("KafkaConnect")["spec"]["bootstrapServers"] == settings["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]


def test_workers_have_the_settings_of_the_native_ones() -> None:
    """Only addresses, copies and what Strimzi sets itself may differ."""
    lines = (ROOT / "connectors" / "connect" / "worker.properties").read_text(encoding="utf-8").splitlines()
    native = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    spec = the("KafkaConnect")["spec"]
    given = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in spec["config"].items()
    }
    wanted = {
        name: value
        for name, value in native.items()
        if name not in WORKER_ONLY and not name.startswith(WORKER_ONLY_PREFIXES)
    }

    assert {} == {name: value for name, value in wanted.items() if given.get(name) != value}
    assert spec["groupId"] == native["group.id"]
    for kind in ("config", "offset", "status"):
        assert spec[f"{kind}StorageTopic"] == native[f"{kind}.storage.topic"]
    provider = "config.providers.env.param.allowlist.pattern"
    assert given[provider] == native[provider]


def test_the_page_shows_the_brokers_settings_of_the_native_one() -> None:
    """Kafka itself is not among the manifests."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    [shown] = [block for block in re.findall(r"(?s)```yaml\n(.*?)```", page) if "kind: Kafka\n" in block]
    lines = (ROOT / "stack" / "kafka" / "server.properties").read_text(encoding="utf-8").splitlines()
    native = dict(line.split("=", 1) for line in lines if line.startswith("group.consumer."))

    assert {name: str(value) for name, value in yaml.safe_load(shown)["spec"]["kafka"]["config"].items()} == native
    assert GROUP_SETTINGS.items() <= {name.removeprefix("group."): value for name, value in native.items()}.items()


def test_the_agents_rules_are_those_of_the_native_stack() -> None:
    """Kustomize reads nothing outside of its folder, so there are two files."""
    native = (ROOT / "stack" / "jmx" / "connect.yml").read_bytes()

    assert native == (KUBERNETES / "base" / "connect-jmx.yml").read_bytes()
    reference = the("KafkaConnect")["spec"]["metricsConfig"]["valueFrom"]["configMapKeyRef"]
    assert reference == {"name": "emrsync-connect-jmx", "key": "connect-jmx.yml"}


def test_every_variable_is_a_setting() -> None:
    """A mistyped one would be ignored in silence."""
    fields = {*OperationsSettings.model_fields, *ConsumerSettings.model_fields, *RetrySettings.model_fields}
    named = {
        *the("ConfigMap")["data"],
        *(variable["name"] for pod in PODS for container in containers(pod) for variable in container.get("env", ())),
    }

    assert set() == {name for name in named if name.removeprefix(PREFIX).removesuffix("_FILE").lower() not in fields}


def test_secrets_are_references_and_each_pod_sees_only_its_own() -> None:
    """No value stands here, and no consumer is given an administrator's."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    given = {}
    for pod in PODS:
        volumes = {one["name"]: one["secret"]["secretName"] for one in pod["spec"]["template"]["spec"]["volumes"]}
        given[pod["metadata"]["name"]] = set(volumes.values())
        for container in containers(pod):
            mounts = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
            for variable in container.get("env", ()):
                if variable["name"].endswith("_FILE"):
                    folder, key = variable["value"].rsplit("/", 1)
                    assert f"| `{mounts[folder]}` |" in page, variable
                    assert f"`{key}`" in page, variable

    assert of_kind("Secret") == []
    assert {"emrsync-admin", "emrsync-consumer", "emrsync-cdc"} == given.pop("emrsync-provision")
    assert {"emrsync-consumer"} == set().union(*given.values())
    texts = [path.read_text(encoding="utf-8") for path in KUBERNETES.rglob("*.yaml")]
    assert not any(re.search(r"(?i)password: +[^$\s{]", text) for text in texts)


def test_pods_are_locked_down() -> None:
    """No root, nothing written, no right that is not needed."""
    for pod in PODS:
        spec = pod["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]


def test_what_settles_events_has_the_time_it_needs_to_stop() -> None:
    """The same as in the compose file and on the native stack."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    graces = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for one in of_kind("Deployment")
    }

    assert graces["emrsync-consumer"] == graces["emrsync-retrier"] == STOP_LIMIT_S
    assert compose["consumer"]["stop_grace_period"] == compose["retrier"]["stop_grace_period"] == f"{STOP_LIMIT_S}s"


def test_an_upgrade_takes_no_member_away_before_another_has_its_share() -> None:
    """Shares move, and throughput stays."""
    consumer = next(one for one in of_kind("Deployment") if one["metadata"]["name"] == "emrsync-consumer")

    assert consumer["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert consumer["spec"]["minReadySeconds"] >= 10
    assert "livenessProbe" not in containers(consumer)[0]
    assert the("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_selectors_meet_what_is_there() -> None:
    """A policy or a budget for nobody protects nothing."""
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in PODS]
    names = {one["app.kubernetes.io/name"] for one in labels}
    cluster = the("KafkaConnect")["metadata"]["name"]
    for one in [*of_kind("NetworkPolicy"), the("PodDisruptionBudget")]:
        selector = one["spec"].get("podSelector") or one["spec"]["selector"]
        wanted = {name for rule in selector.get("matchExpressions", ()) for name in rule["values"]}
        by_label = selector.get("matchLabels", {})
        wanted |= {value for key, value in by_label.items() if key == "app.kubernetes.io/name"}
        assert wanted <= names, one["metadata"]["name"]
        assert wanted or by_label["strimzi.io/cluster"] == cluster, one["metadata"]["name"]
    covered = {
        name
        for rule in of_kind("NetworkPolicy")[0]["spec"]["podSelector"]["matchExpressions"]
        for name in rule["values"]
    }
    assert covered == names
    scaler = the("ScaledObject")["spec"]
    assert scaler["scaleTargetRef"]["name"] in names
    assert scaler["triggers"][0]["metadata"]["consumerGroup"] == ConsumerSettings.model_fields["consumer_group"].default


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_name_the_base_and_build_where_kubectl_is(overlay: str) -> None:
    """`kubectl kustomize` needs no cluster; without it only what the overlay names is looked at."""
    folder = KUBERNETES / "overlays" / overlay
    read = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert all(
        (folder / name / "kustomization.yaml").is_file() for name in [*read["resources"], *read.get("components", ())]
    )
    if kubectl := shutil.which("kubectl"):
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        built = [one for one in yaml.safe_load_all(done.stdout) if one]
        assert {one["metadata"]["namespace"] for one in built} == {"emrsync"}
        kinds = sorted(one["kind"] for one in built)
        assert kinds.count("Deployment") == 3
        assert ("ScaledObject" in kinds) == bool(read.get("components"))
