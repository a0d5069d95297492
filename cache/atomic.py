"""Publishing a file so that a crash, a kill or a power cut never leaves half of one under its final name.

Every change that the cache makes to a folder goes through here: the tests stop it before and after each of them.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

OTHER_HOST_SECONDS = 24 * 3600  #: some network file systems lock within one host only: another host's file waits a day
LOCK_SECONDS = 600  #: a lock is held for a few renames; who waits longer waits for a process that has been stopped
POLL_SECONDS = 0.01
PREFIX = ".tmp-"
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success fsync it, rename it to `path` and fsync the folder.

    On any error the temporary file is removed and `path` is untouched.
    """
    with temporary_in(path.parent) as temporary:
        yield temporary
        put_in_place(temporary, path)


@contextlib.contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """An empty file in `folder`, locked as long as this process lives; removed at the end unless it was renamed."""
    path, descriptor = _create(folder)
    try:
        yield path
    finally:
        os.close(descriptor)
        remove(path)


def _create(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{PREFIX}{socket.gethostname()}-{uuid.uuid4().hex}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except OSError as error:
            error.filename = str(folder)  # the name that nobody has given says nothing to anybody
            raise
        if try_lock(descriptor, unknown=True) and path.exists():  # else taken for a dead one's before it was locked
            return path, descriptor
        os.close(descriptor)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, in one file system: a power cut leaves the old file or the whole new one."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_there(path: Path) -> bool:
    """True if there is a file; unlike `Path.exists` it takes no other trouble for an answer. Raises OSError."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        sync(path.parent)


def remove_empty_folder(path: Path) -> None:
    """Remove a folder if it is there and empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, on which all who change its folder's files in several steps wait for each other.

    The system releases it with the process, however that ends; the empty file stays. Raises TimeoutError.
    """
    from filelock import FileLock, Timeout  # late: readers, who never lock, need not wait for its import

    lock, began = FileLock(path), time.monotonic()
    while True:  # our own waiting, so that tests can let another writer go meanwhile
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            if time.monotonic() - began > LOCK_SECONDS:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds this lock and does not go on",
                                   str(path)) from None
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files that processes no longer alive have left in `folder`; returns how many."""
    return sum(_remove_if_dead(path) for path in folder.glob(f"{PREFIX}*"))


def _remove_if_dead(path: Path) -> bool:
    """Remove a temporary file whose lock nobody holds: its writer would, in whatever container it runs.

    It goes while we hold that lock: a writer who has just created it and not locked it yet sees it gone, or stays.
    """
    try:
        old = time.time() - path.stat().st_mtime > OTHER_HOST_SECONDS
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False  # gone, or not ours
    try:
        here = path.name.rpartition("-")[0] == f"{PREFIX}{socket.gethostname()}"
        dead = (old or here) and try_lock(descriptor, unknown=old)
        if dead:
            remove(path)
        return dead
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, unknown: bool) -> bool:
    """True if the file is now locked by this descriptor; `unknown` where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
        return unknown
    return True
