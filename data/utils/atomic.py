"""Atomic writes and locks: a crash, a kill or a power cut never leaves half a file under its final name.

Some file systems have no locks (flock fails, or always says that another holds the file), or cannot fsync a folder:
there we go on, with a note. The tests stop this module before and after each change that it makes to a folder.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

OTHER_HOST_SECONDS = 24 * 3600  #: some network file systems lock within one host only: another host's file waits a day
LOCK_SECONDS = 600  #: a lock is held for a few renames; a longer wait means that its holder has been stopped
POLL_SECONDS = 0.01
PREFIX = ".tmp-"
CREATE_ATTEMPTS = 5
NO_FOLDER_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

log = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync it, rename it to `path` and fsync the folder.

    On any error the temporary file is removed and `path` is untouched. Without `durable` it survives a crash of the
    process, not a power cut: enough for thousands of images.
    """
    with temporary_file(path.parent) as temporary:
        yield temporary
        if durable:
            publish(temporary, path)
        else:
            os.replace(temporary, path)


@contextlib.contextmanager
def temporary_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """An empty file in `folder`, locked as long as this process lives; removed at the end unless it was renamed."""
    path, descriptor, _ = _create(folder, suffix)
    try:
        yield path
    finally:
        os.close(descriptor)
        remove(path)


def _create(folder: Path, suffix: str = "") -> tuple[Path, int, bool]:
    """A new file, its descriptor, and False if flock calls even this file, which nobody else knows, locked."""
    for attempt in range(CREATE_ATTEMPTS):
        path = folder / f"{PREFIX}{socket.gethostname()}-{uuid.uuid4().hex}{suffix}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except OSError as error:
            error.filename = str(folder)  # the random name tells the user nothing
            raise
        locked = try_lock(descriptor, unknown=True)
        if path.exists() and (locked or attempt == CREATE_ATTEMPTS - 1):
            return path, descriptor, locked
        os.close(descriptor)  # another process has taken it for a stale file before it was locked
        remove(path)
    raise OSError(errno.EAGAIN, "other processes remove what is written here", str(folder))


@functools.cache
def _note_missing_locks() -> None:
    log.warning("this file system has no working locks: let only one process write to a folder at a time")


def publish(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path` on one file system: a power cut leaves the old file or the whole new one."""
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # CIFS, FUSE and vboxsf cannot fsync a folder
        if error.errno not in NO_FOLDER_FSYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def file_exists(path: Path) -> bool:
    """True if `path` exists; unlike `Path.exists`, raises OSError where that cannot be told."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, so that they survive a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        fsync(path.parent)


def remove_empty_folder(path: Path) -> None:
    """Remove a folder if it exists and is empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`: everyone who changes files of its folder in several steps waits for it.

    The system releases it with the process, however that ends; the empty file stays. Raises TimeoutError.
    """
    descriptor, start, checked = os.open(path, os.O_CREAT | os.O_RDWR, 0o666), time.monotonic(), False
    try:
        while not try_lock(descriptor, unknown=True):
            if not checked:
                probe, opened, locks_work = _create(path.parent)
                os.close(opened)
                remove(probe)
                if not locks_work:
                    _note_missing_locks()
                    break
            checked = True
            if time.monotonic() - start > LOCK_SECONDS:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds this lock and makes no progress", str(path))
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, unknown: bool) -> bool:
    """Lock an open file without waiting; True on success, `unknown` where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _note_missing_locks()
        return unknown
    return True


def remove_stale_files(folder: Path) -> int:
    """Remove temporary files that dead processes have left in `folder`; return their number.

    Nobody has locked them: a writer holds the lock, in whatever container it runs. A file is removed under that lock: a
    writer that has created it and not locked it yet sees that it is gone.
    """
    removed = 0
    for path in folder.glob(f"{PREFIX}*"):
        try:
            old = time.time() - path.stat().st_mtime > OTHER_HOST_SECONDS
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue  # gone, or not ours
        local = path.name.startswith(f"{PREFIX}{socket.gethostname()}-")
        try:
            if (old or local) and try_lock(descriptor, unknown=old):
                remove(path)
                removed += 1
        finally:
            os.close(descriptor)
    return removed
