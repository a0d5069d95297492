"""The one rule for every file that a verb writes: nothing that a person has is replaced unawares.

A file that is there already stays as it is, unless the same verb wrote it (each kind of file has a mark that tells) and
`overwrite` says so, or the bytes are the same. An input is never the output. A crash leaves the old file or the new.
"""

import contextlib
import errno
import filecmp
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.utils.atomic import fsync, temporary_file
from twofold.data.utils.errors import InputError

NO_LINKS_HERE = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)
HEAD_BYTES = 1 << 16  #: from the beginning of a file, in which its mark stands


@dataclass(frozen=True)
class OutputKind:
    """A kind of file that a verb writes.

    name: with its article, as in "is not a manifest"; own: True for a file that the verb wrote; repeatable: running the
    command again takes seconds and gives the same bytes, so that a file is only refused once those are known.
    """

    name: str
    own: Callable[[Path], bool]
    repeatable: bool = False


@dataclass(frozen=True)
class Output:
    """A file to be written. inputs: what the verb reads."""

    path: Path
    kind: OutputKind
    overwrite: bool = False
    inputs: Sequence[Path] = ()

    def check(self) -> None:
        """Raises InputError, before anything is computed, if the file could not be written."""
        if not self.path.parent.is_dir():
            raise self._unwritable("its folder is missing")
        if not os.access(self._target.parent, os.W_OK | os.X_OK):
            raise self._unwritable("its folder takes no files")
        if self._is_there():
            self._require_own(decided=not self.kind.repeatable)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A temporary file beside the file, with its suffix; put in its place at the end, unless an error occurs.

        Raises InputError if the file cannot be written, or if what is not to be replaced stands there by then.
        """
        self.check()
        target = self._target
        with temporary_file(target.parent, self.path.suffix) as temporary:
            yield temporary
            fsync(temporary)
            self._put_in_place(temporary, target)
            fsync(target.parent)

    def write_text(self, text: str) -> None:
        """Write a text in UTF-8 whole or not at all. Raises InputError as `writing` does."""
        with self.writing() as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")

    @property
    def _target(self) -> Path:
        """Where the file lies: a link to it stays a link."""
        return Path(os.path.realpath(self.path))

    def _is_there(self) -> bool:
        """False too for a file with nothing in it, as `mktemp` makes. Raises InputError for no file, and an input."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unwritable(error.strerror or "it cannot be looked at") from None
        if not stat.S_ISREG(state.st_mode):
            raise self._unwritable("it is a folder" if stat.S_ISDIR(state.st_mode) else "it is not a regular file")
        for source in self.inputs:
            with contextlib.suppress(OSError):
                if os.path.samestat(source.stat(), state):
                    raise InputError(f"{self.path} is the input: name another output, so that nothing of it is lost")
        return state.st_size > 0

    def _require_own(self, *, decided: bool) -> None:
        """Raises InputError for a file that is not the verb's own or, if that is `decided`, may not be replaced."""
        try:
            own = self.kind.own(self.path)
        except (OSError, ValueError):
            own = False
        if not own:
            raise InputError(f"{self.path} is there already and is not {self.kind.name}: name another output, or take "
                             "it away")
        if decided and not self.overwrite:
            raise InputError(f"{self.path} is there already: --overwrite replaces it, or name another output")

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        try:
            if not self._is_there():
                os.link(temporary, target)  # unlike a renaming, it never takes the place of anything
                return
        except OSError as error:
            if error.errno not in (errno.EEXIST, *NO_LINKS_HERE):
                raise
        if self._is_there():  # maybe only since a moment ago
            if filecmp.cmp(temporary, target, shallow=False):
                return
            self._require_own(decided=True)
        temporary.replace(target)

    def _unwritable(self, reason: str) -> InputError:
        return InputError(f"{self.path}: cannot be written: {reason}")


def read_head(path: Path) -> str:
    """The beginning of a file as text."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).decode("utf-8-sig", "replace")


def read_header(path: Path) -> list[str]:
    """The names in the header line of a CSV file with commas."""
    return read_head(path).partition("\n")[0].strip().replace('"', "").split(",")
