"""The verb `cache export`: a store as files for programs that know nothing of Twofold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twofold.cache.errors import CacheError
from twofold.cache.export.faces import ExportedFaces
from twofold.cache.export.fiftyone import LABELS_CSV, folder_files, is_labels_of_ours, write_folder_file
from twofold.cache.export.numpy_files import is_npz_of_ours, write_npz
from twofold.cache.export.parquet import is_parquet_of_ours, write_parquet


@dataclass(frozen=True)
class ExportFile:
    """A file of an export. kind: what it is, with its article; own: True for one that this verb wrote."""

    path: Path
    kind: str
    own: Callable[[Path], bool]
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    out: Path
    faces: ExportedFaces

    def record(self) -> dict[str, Any]:
        return {"out": str(self.out), "faces": len(self.faces.keys), "left_out": self.faces.left_out,
                "streams": dict(zip(self.faces.streams, (file.dim for file in self.faces.files), strict=True)),
                "untrained": self.faces.untrained}

    def text(self) -> str:
        faces = self.faces
        left_out = f"; {faces.left_out:,} faces left out that not every file has" if faces.left_out else ""
        lines = [f"{self.out}: {len(faces.keys):,} faces{left_out}"]
        lines += [f"  {name}  {file.dim}-d{' * UNTRAINED' if file.recipe.untrained else ''}"
                  for name, file in zip(faces.streams, faces.files, strict=True)]
        return "\n".join(lines)


def export_files(out: Path, faces: ExportedFaces) -> list[ExportFile]:
    """The files that `out` asks for: NAME.npz, NAME.parquet, or without an ending a folder for FiftyOne.

    The first is to be put in place last: with it the export is whole. Raises CacheError for another ending, and for a
    folder that holds anything but an older export.
    """
    if out.suffix == ".npz":
        return [ExportFile(out, "an archive of `cache export`", is_npz_of_ours, partial(write_npz, faces=faces))]
    if out.suffix == ".parquet":
        return [ExportFile(out, "a table of `cache export`", is_parquet_of_ours, partial(write_parquet, faces=faces))]
    if out.suffix:
        raise CacheError(f"{out}: an export is NAME.npz, NAME.parquet, or a folder (for FiftyOne), whose name has no "
                         "ending")
    labels = out / LABELS_CSV
    if out.is_dir() and any(out.iterdir()) and not (labels.is_file() and is_labels_of_ours(labels)):
        raise CacheError(f"{out} holds something already, and is not a folder of `cache export`: choose another -o")
    return [ExportFile(out / name, "a file of `cache export`", is_labels_of_ours if name == LABELS_CSV else
                       lambda path: is_labels_of_ours(path.with_name(LABELS_CSV)),
                       partial(write_folder_file, name=name, faces=faces)) for name in reversed(folder_files(faces))]
