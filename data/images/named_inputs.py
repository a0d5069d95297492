"""Image files and folders as a person names them: one manifest of unlabelled faces below their common folder."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import pandas as pd

from twofold.data.errors import InputError
from twofold.data.manifest import Manifest, manifest, read_manifest
from twofold.data.readers.folder import is_image


def read_inputs(inputs: Sequence[Path]) -> tuple[Manifest, Path]:
    """Faces of all images given or found in the folders given, sorted, each once, and the folder of their keys.

    Raises InputError for a path that is not there, a file that is no image, a folder without images.
    """
    paths: set[str] = set()
    for source in inputs:
        if source.is_dir():
            images = [os.path.abspath(path) for path in source.rglob("*")
                     if is_image(path.relative_to(source)) and path.is_file()]
            if not images:
                raise InputError(f"{source}: no images in it (and no feature files)")
            paths.update(images)
        elif not source.exists():
            raise InputError(f"{source}: no such file or folder")
        elif not is_image(PurePath(source.name)):
            raise InputError(f"{source}: not an image by its name; INPUT is images, folders, one manifest or one store")
        else:
            paths.add(os.path.abspath(source))
    common = os.path.commonpath([os.path.abspath(source if source.is_dir() else source.parent) for source in inputs])
    keys = sorted(PurePath(os.path.relpath(path, common)).as_posix() for path in paths)
    return manifest(pd.DataFrame({"key": keys}), source=str(common)), Path(common)


def in_store(faces: Manifest, path: Path) -> Manifest:
    """What the manifest of a store at `path` becomes when these faces are to be predicted with it.

    The same faces keep the labels they have there. Raises InputError if faces or labels would be lost.
    """
    if not path.is_file():
        return faces
    old = read_manifest(path)
    if set(old.keys) == set(faces.keys):
        return old
    bare = bool((old.table[["split", "basic", "compound", "group"]] == "").to_numpy().all())
    if bare and set(old.keys) <= set(faces.keys):
        return faces
    raise InputError(f"{path.parent}: a store of other faces, which would be lost: choose another --store")
