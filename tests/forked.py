"""Processes of the command line that begin with torch loaded: forked from one that has loaded it, and real otherwise.

Each has a process id, an exit code, standard streams and limits of its own, and can be killed. What it does not show,
that a fresh interpreter comes as far, the fixture `pipeline` does.
"""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from twofold import pipeline

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "h5py", "pandas", "torch", "timm", "torchvision"])


@dataclass(frozen=True)
class Forked:
    """A process that runs, or has ended; its standard streams go into a folder."""

    process: ForkServerProcess
    folder: Path

    def runs(self) -> bool:
        return self.process.is_alive()

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid or 0, number)

    def finish(self, seconds: float = 300) -> tuple[int, str, str]:
        """Wait for its end: the exit code (minus the signal that ended it), stdout and stderr."""
        self.process.join(seconds)
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert self.process.exitcode is not None, f"it runs for more than {seconds} s: {err}"
        return self.process.exitcode, out, err


def start(words: Sequence[str], folder: Path, *, code: str = "") -> Forked:
    """`python pipeline.py WORDS`, or with `code` run before it, in the background."""
    folder.mkdir()
    process = SERVER.Process(target=run, args=(words, folder, code))
    process.start()
    return Forked(process, folder)


def run(words: Sequence[str], folder: Path, code: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    exec(code, {})
    sys.exit(pipeline.main(list(words)))
