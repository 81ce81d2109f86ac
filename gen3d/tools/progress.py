"""Progress bars on standard error, quiet when it is no terminal; of training, lines in a log instead."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

LOG_SECONDS = 60  # between two lines


def say(words: str) -> None:
    """Print a line, once for all processes."""
    from gen3d.core.distributed import is_main

    if is_main():
        print(words, flush=True)


def shown_progress(what: str, count: int) -> AbstractContextManager[Callable[[int, str], None]]:
    """Show a progress bar, one for all processes; where there is no terminal, a line every minute."""
    from gen3d.core.distributed import is_main

    if not is_main():
        return nullcontext(lambda done, words: None)
    return progress_bar(what, count) if sys.stderr.isatty() else log_lines(what, count)


@contextmanager
def log_lines(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Say now and then how far it is; yields a function that takes how many are done and a few words."""
    first, begin = None, time.monotonic()
    said = begin

    def advance(done: int, words: str) -> None:
        nonlocal first, begin, said
        now = time.monotonic()
        if first is None:
            first, begin = done, now
        if now - said >= LOG_SECONDS and done < total:
            said = now
            minutes = (now - begin) * (total - done) / (done - first) / 60 if done > first else 0
            say(f"{what}: {done} of {total}{f', about {minutes:.0f} min left' if minutes >= 1 else ''}; {words}")

    yield advance


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar with time left and memory; yields a function that takes how many are done and a few words.

    Args:
        what: What is being done.
        total: How many there are.
    """
    if not sys.stderr.isatty():
        yield lambda done, words: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    above = sys.stdout.isatty()  # elsewhere results must reach standard output itself
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=above) as progress:
        task = progress.add_task(what, total=total, words="")
        yield lambda done, words: progress.update(task, completed=done, words=f"{memory()} {words}")


def memory() -> str:
    """Return the most memory that this process has taken, of the GPU where it uses one, such as "1.8 GB"."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{taken * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB"


class TimeLeft:
    """Tells from the share done how long the rest will take, for logs that show no bar."""

    def __init__(self) -> None:
        self.begin, self.share = time.monotonic(), 0.0

    def reached(self, share: float) -> None:
        """Take note of the share done."""
        self.share = share

    def words(self) -> str:
        """Return e.g. ", about 12 min left", nothing where a bar is shown, it is too early or almost over."""
        if sys.stderr.isatty() or not 0.01 < self.share < 0.999:
            return ""
        minutes = (time.monotonic() - self.begin) * (1 - self.share) / self.share / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ""
