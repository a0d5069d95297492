"""A place inside an archive, with as much of `pathlib.Path` as the datasets' readers use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from twofold.data.errors import InputError
from twofold.data.images.archives import Archive, is_archive
from twofold.data.images.decode import ImageError
from twofold.data.manifest import Manifest, manifest

LITTER = "__MACOSX"  #: what macOS adds to archives


@dataclass(frozen=True, order=True)
class ArchivePath:
    """`inner` is the path below the archive's top, which is "."."""

    inner: PurePosixPath
    archive: Archive = field(compare=False)

    def __truediv__(self, name: str) -> "ArchivePath":
        return ArchivePath(self.inner / name, self.archive)

    def __str__(self) -> str:
        return str(PurePosixPath(self.archive.path.as_posix()) / self.inner)

    @property
    def key(self) -> str:
        """As the archive names it; empty for its top."""
        return "" if self.inner == PurePosixPath(".") else self.inner.as_posix()

    @property
    def name(self) -> str:
        return self.inner.name or self.archive.path.name

    @property
    def parent(self) -> "ArchivePath":
        return ArchivePath(self.inner.parent, self.archive)

    def resolve(self) -> "ArchivePath":
        return self

    def is_dir(self) -> bool:
        return self.key in self.archive.folders

    def is_file(self) -> bool:
        return self.key in self.archive.members

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ArchivePath"]:
        """What lies in this folder, sorted. Raises FileNotFoundError if there is none."""
        if not self.is_dir():
            raise FileNotFoundError(str(self))
        return iter([self / name for name in sorted(self.archive.folders[self.key])])

    def rglob(self, _everything: str) -> Iterator["ArchivePath"]:
        """Every file below this folder; the one pattern is `*`."""
        keys, start = self.archive.members, f"{self.key}/" if self.key else ""
        return (ArchivePath(PurePosixPath(key), self.archive) for key in keys if key.startswith(start))

    def read_bytes(self) -> bytes:
        """The file's contents. Raises OSError."""
        try:
            return self.archive.read(self.key)
        except ImageError as error:
            raise OSError(0, str(error), str(self)) from None

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)


Place = Path | ArchivePath  #: a dataset's root: its folder, or a place in its archive


def below(place: Place, root: Place) -> PurePath:
    """The path from a root to a place below it."""
    return PurePath(str(place)).relative_to(str(root))


def read_dataset(root: Path, read: Callable[[Place], Manifest]) -> Manifest:
    """What a reader makes of a folder or an archive; an archive of one folder is read from there.

    The keys are those of the archive's own members, as `extract --root ARCHIVE` wants them. Raises InputError for a
    root that is neither.
    """
    if not is_archive(root):
        if not root.is_dir():
            raise InputError(f"{root}: no such folder")
        return read(root)
    top = ArchivePath(PurePosixPath("."), Archive(root.resolve()))
    inside = [path for path in top.iterdir() if path.name != LITTER]
    if len(inside) != 1 or not inside[0].is_dir():
        return read(top)
    faces = read(inside[0])
    return manifest(faces.table.assign(key=f"{inside[0].key}/" + faces.table["key"]), source=str(root),
                    notes=faces.notes)
