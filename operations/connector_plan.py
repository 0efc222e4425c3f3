"""What `emrsync connector apply` would change, and what keeps it from working; asking changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Final

from connectors.connect_client import ConnectClient
from connectors.connector_changes import SettingChange, changes, check_secrets
from connectors.connector_config import SourceEngine, connector_config
from operations.config import OperationsSettings
from operations.errors import ConnectorGuardError
from operations.kafka import KafkaAdmin, TopicDrift
from operations.parts import Unavailable, part
from operations.source import connector_place
from operations.topic_check import TopicCheck, check_topics

_UNASKED: Final = TopicCheck((), ())


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A wanted configuration against the live one.

    Attributes:
        name: the connector's.
        exists: whether there is one of this name.
        engine: of the source database.
        wanted: the configuration that apply would set; secrets in it are references.
        changes: by setting, secrets masked.
        objections: what the connector itself says against the configuration; empty for none.
        topics: what is missing or different, or why it could not be asked.
    """

    name: str
    exists: bool
    engine: SourceEngine
    wanted: dict[str, str] = dataclasses.field(repr=False)
    changes: tuple[SettingChange, ...] = ()
    objections: tuple[str, ...] = ()
    topics: TopicCheck | Unavailable = _UNASKED

    @property
    def consequences(self) -> tuple[str, ...]:
        """What hangs on settings that say which stream this is."""
        return tuple(f"{one.name}: {one.consequence}" for one in self.changes if one.consequence)

    @property
    def drift(self) -> tuple[TopicDrift, ...]:
        """How existing topics differ from the contract."""
        return () if isinstance(self.topics, Unavailable) else self.topics.drift

    @property
    def missing(self) -> tuple[str, ...]:
        """Topics that must be there first."""
        return () if isinstance(self.topics, Unavailable) else self.topics.missing

    @property
    def nothing_to_do(self) -> bool:
        """Whether apply would change nothing and all else is as it must be."""
        checked = not isinstance(self.topics, Unavailable)
        return self.exists and checked and not (self.changes or self.objections or self.drift or self.missing)


def read_plan(
    settings: OperationsSettings, client: ConnectClient, *, topics: bool = True, objections: bool = True
) -> Plan:
    """Compare configurations; look at the topics, and let the connector check what is wanted, which asks the database.

    Raises:
        SecretInConfigError: the wanted configuration holds a secret itself.
    """
    place = connector_place(settings)
    wanted = connector_config(place)
    check_secrets(wanted)
    live = client.config_or_none(settings.connector_name)
    plan = Plan(settings.connector_name, live is not None, place.engine, wanted, changes(live, wanted))
    if topics:
        admin = KafkaAdmin(settings.text("kafka_bootstrap_servers"))
        plan = dataclasses.replace(plan, topics=part(lambda: check_topics(settings, place.engine, admin)))
    return dataclasses.replace(plan, objections=client.objections(wanted)) if objections else plan


def check_identity(plan: Plan, *, allowed: bool) -> None:
    """Refuse a plan that makes another stream of the connector, unless that is meant.

    Raises:
        ConnectorGuardError: with what hangs on each setting.
    """
    if plan.consequences and not allowed:
        raise ConnectorGuardError(
            f"connector {plan.name} would become another stream: {'; '.join(plan.consequences)}. Remove it with"
            " `emrsync connector remove` and apply again, or give another EMRSYNC_CONNECTOR_NAME; --new-identity"
            " does it all the same"
        )
