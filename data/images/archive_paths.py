"""A place inside an archive, with as much of `pathlib.Path` as the datasets' readers use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath

from twofold.data.images.archives import Archive, is_archive
from twofold.data.images.decode import ImageError
from twofold.data.manifest import Manifest, manifest

LITTER = "__MACOSX"  #: what macOS adds to archives


@dataclass(frozen=True)
class Tree:
    """The folders of an archive and what lies in each."""

    archive: Archive

    @cached_property
    def folders(self) -> dict[str, set[str]]:
        """Folder ("" for the top) to the names in it."""
        folders: dict[str, set[str]] = {"": set()}
        for key in self.archive.members:
            path = key
            while path:
                folder, _, name = path.rpartition("/")
                names = folders.setdefault(folder, set())
                if name in names:
                    break
                names.add(name)
                path = folder
        return folders


@dataclass(frozen=True, order=True)
class ArchivePath:
    """`inner` is the path below the archive's top, which is "."."""

    inner: PurePosixPath
    tree: Tree = field(compare=False)

    def __truediv__(self, name: str) -> "ArchivePath":
        return ArchivePath(self.inner / name, self.tree)

    def __str__(self) -> str:
        return str(PurePosixPath(self.tree.archive.path.as_posix()) / self.inner)

    @property
    def key(self) -> str:
        """As the archive names it; empty for its top."""
        return "" if self.inner == PurePosixPath(".") else self.inner.as_posix()

    @property
    def name(self) -> str:
        return self.inner.name or self.tree.archive.path.name

    @property
    def parent(self) -> "ArchivePath":
        return ArchivePath(self.inner.parent, self.tree)

    def resolve(self) -> "ArchivePath":
        return self

    def is_dir(self) -> bool:
        return self.key in self.tree.folders

    def is_file(self) -> bool:
        return self.key in self.tree.archive.members

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ArchivePath"]:
        """What lies in this folder, sorted. Raises FileNotFoundError if there is none."""
        if not self.is_dir():
            raise FileNotFoundError(str(self))
        return iter([self / name for name in sorted(self.tree.folders[self.key])])

    def rglob(self, _everything: str) -> Iterator["ArchivePath"]:
        """Every file below this folder; the one pattern is `*`."""
        keys, start = self.tree.archive.members, f"{self.key}/" if self.key else ""
        return (ArchivePath(PurePosixPath(key), self.tree) for key in keys if key.startswith(start))

    def read_bytes(self) -> bytes:
        """The file's contents. Raises OSError."""
        try:
            return self.tree.archive.read(self.key)
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

    The keys are those of the archive's own members, as `extract --root ARCHIVE` wants them.
    """
    if not is_archive(root):
        return read(root)
    top = ArchivePath(PurePosixPath("."), Tree(Archive(root.resolve())))
    inside = [path for path in top.iterdir() if path.name != LITTER]
    if len(inside) != 1 or not inside[0].is_dir():
        return read(top)
    faces = read(inside[0])
    return manifest(faces.table.assign(key=f"{inside[0].key}/" + faces.table["key"]), source=str(root),
                    notes=faces.notes)
