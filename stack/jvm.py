"""Command lines of the JVM programs."""

from collections.abc import Mapping
from pathlib import Path

from stack.layout import own_file

LOGGING = Path(__file__).parent / "kafka" / "log4j2.xml"
JAVA = "/usr/bin/java"


def java(main_class: str, *arguments: str, jars: Path, options: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command line that runs a main class from a folder of jars."""
    return (JAVA, *options, "-cp", f"{jars}/*", main_class, *arguments)


def server_options(folder: Path, heap_mb: int) -> tuple[str, ...]:
    """Return the options of a server's JVM, with log4j2.xml expected in `folder`."""
    return (
        # equal bounds: no time is spent growing the heap while the server starts
        f"-Xms{heap_mb}m",
        f"-Xmx{heap_mb}m",
        # the parallel and concurrent collectors' threads compete with four servers for two cores
        "-XX:+UseSerialGC",
        # the second compiler takes as much processor time as the first 12,000 records: they came in 2.9 s without it
        # and in 5.6 s with it, and servers here are short-lived; workers of a cluster have it
        "-XX:TieredStopAtLevel=1",
        # JDK 17 takes the platform's charset otherwise, and a payload must survive a POSIX locale
        "-Dfile.encoding=UTF-8",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}",
        # a server that is out of memory must die and be seen, not limp
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
    )


def write_logging(folder: Path, user: str | None) -> None:
    """Put the logging configuration where the server's user can read it."""
    own_file(folder / "log4j2.xml", LOGGING.read_text(encoding="utf-8"), user)


def locale_variables(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a JVM."""
    return {"LANG": "C.UTF-8", **extra}
