"""One image file below a folder, read so that nothing a folder may hold can end or hang a run."""

import os
import stat
from pathlib import Path

from twofold.data.images.decode import ImageError

MAX_FILE_BYTES = 256 << 20  #: no face is larger; a sparse file of 40 GB would fill the memory


def read_below(root: Path, below: str) -> bytes:
    """The bytes of the file `below` the resolved folder `root`, links within it followed. Raises ImageError."""
    try:
        return _content(inside(root, below))
    except FileNotFoundError:
        raise ImageError("missing file") from None
    except OSError as error:
        raise ImageError(f"unreadable file ({error.strerror or 'bad name'})") from None
    except ValueError:
        raise ImageError("unreadable file (bad name)") from None


def inside(root: Path, below: str) -> Path:
    """The file of that name with every link followed. Raises ImageError if that leads out of the root, else OSError."""
    try:
        path = (root / below).resolve(strict=True)
    except RuntimeError:  # before Python 3.13; an OSError since
        raise ImageError("unreadable file (Too many levels of symbolic links)") from None
    if not path.is_relative_to(root):
        raise ImageError("outside its root")
    return path


def _content(path: Path) -> bytes:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("unreadable file (Is a directory)")
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise ImageError("unreadable file (not a regular file)")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(f"file larger than {MAX_FILE_BYTES >> 20} MB")
    with open(path, "rb", opener=_open_at_once) as file:
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Not waiting, should a pipe have taken the file's place since."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
