"""A progress bar on standard error, so that what a command says can be redirected alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
import rich.progress


@contextmanager
def bar(what: str, total: int | None, *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """Show how far something is; give the function that is told of each further count."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), disable=hidden) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)
