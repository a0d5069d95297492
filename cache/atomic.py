"""Publishing a file so that a crash, a kill or a power cut never leaves half of one under its final name."""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

FOREIGN_LEFTOVER_SECONDS = 24 * 3600  # another host's process id tells us nothing: wait a day


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success fsync it, rename it to `path` and fsync the folder.

    On any error the temporary file is removed and `path` is untouched.
    """
    temporary = path.parent / f".tmp-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, of one folder, so that a power cut leaves the old file or the whole new one."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files that processes no longer alive have left in `folder`; returns how many."""
    dead = [path for path in folder.glob(".tmp-*") if not _alive(path)]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def _alive(path: Path) -> bool:
    host, _, rest = path.name.removeprefix(".tmp-").rpartition("-")[0].rpartition("-")
    if host != socket.gethostname():
        try:
            return time.time() - path.stat().st_mtime < FOREIGN_LEFTOVER_SECONDS
        except FileNotFoundError:
            return False
    try:
        os.kill(int(rest), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
