"""A bar with the remaining time, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[..., None]]:
    """Entered, it is a function that advances the bar, by 1 if nothing is said."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=total < 2 or not console.is_terminal,
    ) as bar:
        task = bar.add_task('', total=total)
        yield lambda count=1: bar.advance(task, count)
