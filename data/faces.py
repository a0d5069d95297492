"""Where the bytes of a face come from: a key below a root folder, or below one of several named roots."""

from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.images import ImageError


@dataclass(frozen=True)
class Faces:
    """Roots by name; the root of keys without a dataset's name in front stands under the empty name."""

    roots: dict[str, Path]

    def read(self, key: str) -> bytes:
        """The bytes of the image file of `key`. Raises ImageError if there is none, or it lies outside its root."""
        root, below = self._place(key)
        try:
            path = (root / below).resolve(strict=True)
            if not path.is_relative_to(root):
                raise ImageError("outside its root")
            return path.read_bytes()
        except FileNotFoundError:
            raise ImageError("missing file") from None
        except (OSError, ValueError) as error:
            raise ImageError(f"unreadable file ({getattr(error, 'strerror', None) or 'bad name'})") from None

    def _place(self, key: str) -> tuple[Path, str]:
        if "" in self.roots:
            return self.roots[""], key
        name, _, below = key.partition("/")
        if name not in self.roots:
            raise ImageError(f"no root for {name!r}")
        return self.roots[name], below


def open_faces(root: Path | dict[str, Path]) -> Faces:
    """Faces below one folder, or below several named ones. Raises InputError for a folder that is not there."""
    roots = root if isinstance(root, dict) else {"": root}
    for folder in roots.values():
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder of faces (--root)")
    return Faces({name: Path(folder).resolve() for name, folder in roots.items()})
