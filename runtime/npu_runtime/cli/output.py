"""What a command says: results on stdout or in a file; remarks, progress and the notice of a first run on stderr."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from npu_isa.errors import NpuError, printable
from npu_isa.file.container import write_whole

if TYPE_CHECKING:
    from npu_runtime.reports.evaluating import RunReport
    from npu_runtime.reports.tables import Table


def note(text: str) -> None:
    """Print a remark; a full disk behind stderr does not end the work."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def put_notes(notes: Iterable[str]) -> None:
    """Print what the compiler has to say of a network."""
    for text in notes:
        note(f"note: {printable(text)}")


def put_host(lines: Iterable[str]) -> None:
    """Print what the host runs of a model."""
    for text in lines:
        note(f"host: {printable(text)}")


def put(text: str, output: str | None = None) -> None:
    """Print a result, or write it to a file, whole or not at all.

    Raises:
        NpuError: neither can be written.
    """
    if output is not None:
        write_whole(output, text.encode("utf-8", "backslashreplace"))
        return
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))  # whatever the terminal can show
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NpuError(f"cannot write: {error.strerror}", "standard output", "send it elsewhere, or give -o") from None


def put_result(result: "RunReport | Table", args: argparse.Namespace, more: str = "") -> None:
    """Put a result in the format asked for, and text after it."""
    made = {"table": result.to_text, "json": result.to_json, "csv": result.to_csv}
    put(made[args.format]() + more, args.output)


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on a terminal's stderr; yields the function that moves it: (steps, text)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps, text=title: bar.update(task, advance=steps, description=text)


@contextmanager
def first_run_notice() -> Iterator[None]:
    """Say once that kernels are compiled, at the moment when Numba finds one missing from its cache."""
    from numba.core import event

    class Notice(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not self.said:
                self.said = True
                note("compiling kernels that are not in Numba's cache yet (up to a minute) ...")

        def on_end(self, event: Any) -> None:
            pass

    with event.install_listener("numba:compile", Notice()):
        yield
