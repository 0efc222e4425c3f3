"""How a JVM is given the agent: its jar, a port on loopback, and the file that says what is shown."""

from dataclasses import dataclass
from pathlib import Path

from stack.layout import own_file
from stack.ports import LOOPBACK

RULES = Path(__file__).parent


@dataclass(frozen=True)
class JmxAgent:
    """The agent of one home; the broker has the first port, and Connect worker n the n-th after it."""

    jars: Path
    first_port: int

    def options(self, folder: Path, number: int) -> tuple[str, ...]:
        """Return the options of the JVM whose rules are in `folder`, `number` counted from the broker as 0."""
        [jar] = sorted(self.jars.glob("jmx_prometheus_javaagent-*.jar"))
        return (f"-javaagent:{jar}={LOOPBACK}:{self.first_port + number}:{folder / 'jmx.yml'}",)


def options(agent: JmxAgent | None, folder: Path, number: int) -> tuple[str, ...]:
    """Return the options of a JVM; none where no agent is asked for."""
    return () if agent is None else agent.options(folder, number)


def write_rules(agent: JmxAgent | None, name: str, folder: Path, user: str | None) -> None:
    """Put the rules, kafka or connect, where the server's user can read them."""
    if agent is not None:
        own_file(folder / "jmx.yml", (RULES / f"{name}.yml").read_text(encoding="utf-8"), user)
