"""A store: a folder of feature files of one dataset, with its manifest; it can be copied anywhere."""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from twofold.cache.errors import CacheError, FileGone
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.data.utils.csv_files import read_table
from twofold.data.utils.errors import InputError

MANIFEST = "manifest.csv"
SHARDS = ".shards"
RETIRED = "retired-"  #: starts the name of a shard with rows of samples that are no longer in the manifest
BESIDE = {MANIFEST, "README.md", "store.json"}  #: what a store without any feature file may hold


class Store:
    """The folder at `path`. Raises CacheError if there is none, unless it may be `new`.

    lock_path: the lock of whoever changes files in several steps; readers do not use it.
    """

    def __init__(self, path: Path | str, *, new: bool = False):
        self.path = Path(path)
        self.manifest_path, self.lock_path = self.path / MANIFEST, self.path / ".lock"
        if not new and not self.path.is_dir():
            raise CacheError(f"{self.path}: no such store (a folder that `extract --store` has written)")

    def require_own_folder(self) -> None:
        """Raise CacheError if the folder holds other things and no store: nothing of ours is mixed with them."""
        try:
            names = {name for name in os.listdir(self.path) if name == SHARDS or not name.startswith(".")}
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise CacheError(f"{self.path} is a file, not a folder: give another store") from None
        if names - BESIDE and not any(name == SHARDS or ".h5" in name for name in names):
            raise CacheError(f"{self.path} holds {sorted(names - BESIDE)[0]!r} and is no store: give a new folder")

    def listed_keys(self) -> set[str] | None:
        """The keys of the manifest; None without a readable one."""
        with suppress(InputError, KeyError):
            return set(read_table(self.manifest_path)["key"])
        return None

    def require_same_dataset(self, keys: Collection[str]) -> None:
        """Raise CacheError if the store has a manifest and files, but none of these keys: it is of another dataset."""
        listed = self.listed_keys()
        if listed and keys and self.files() and listed.isdisjoint(keys):
            raise CacheError(f"{self.path} is the store of another dataset: none of its {len(listed)} samples is in "
                             "this manifest; give another --store, put both into one manifest with `manifest merge`, "
                             "or say --replace-manifest")

    def files(self) -> list[FeatureFile]:
        """All feature files, by name; none is opened yet."""
        return [FeatureFile(path) for path in h5_files(self.path) if not path.name.startswith(".")]

    def shards(self) -> list[FeatureFile]:
        """All shards of unfinished work, by name; none is opened yet."""
        return [FeatureFile(path) for folder in _entries(self.path / SHARDS) for path in h5_files(folder)]

    def readable(self) -> tuple[list[FeatureFile], dict[Path, str]]:
        """The files with a sound header, and the reason for each other one."""
        good, bad = [], {}
        for file in self.files():
            try:
                _ = file.header
                good.append(file)
            except CacheError as error:
                if not isinstance(error, FileGone):
                    bad[file.path] = str(error)
        return good, bad

    def files_of(self, view: str) -> list[FeatureFile]:
        """All files of a view. Raises CacheError if any file of the store cannot be read: it may be one of them."""
        good, bad = self.readable()
        if bad:
            raise CacheError(f"{next(iter(bad.values()))}; fetch it whole (git-lfs: `git lfs pull`), delete it, or "
                             "name the files to use with --backbones")
        return [file for file in good if file.view == view]

    def backbones(self, view: str = "original") -> list[str]:
        """Names of the backbones of all files of a view, in file order, each once; raises as `files_of`."""
        return list(dict.fromkeys(file.backbone for file in self.files_of(view)))

    def find(self, backbone: str, view: str = "original") -> FeatureFile:
        """The one file of this backbone (`NAME`, or `NAME@FINGERPRINT` with any number of its digits) and view. Raises
        CacheError if there is none, or more than one and no fingerprint chooses."""
        good, bad = self.readable()
        files = [file for file in good if file.view == view and file.recipe.is_named(backbone)]
        if len(files) == 1:
            return files[0]
        if not files:
            have = ", ".join(sorted({f"{file.backbone} ({file.view})" for file in good})) or "nothing"
            damaged = f"; unreadable: {', '.join(path.name for path in bad)}" if bad else ""
            others = {file.view for file in good if file.recipe.is_named(backbone)}
            advice = f"; `extract --views {','.join([*sorted(others), view])}` with the same images adds the view" \
                if others else ""
            raise CacheError(f"{self.path} has no features of {backbone!r} (view {view!r}); it has {have}{damaged}"
                             f"{advice}")
        choices = " or ".join(f"{file.backbone}@{file.fingerprint[:8]}" for file in files)
        raise CacheError(f"{self.path} has {len(files)} files of {files[0].backbone!r} (view {view!r}) with different "
                         f"recipes: choose {choices} (`cache diff` shows what differs)")

    def path_of(self, recipe: Recipe) -> Path:
        """Path of the finished file of a recipe: `<backbone>.<view>.<fp8>.h5`."""
        backbone = re.sub(r"[^A-Za-z0-9._@+=-]", "-", recipe.backbone)
        return self.path / f"{backbone}.{recipe.view['name']}.{recipe.fingerprint[:8]}.h5"

    def shard_folder(self, recipe: Recipe) -> Path:
        return self.path / SHARDS / recipe.fingerprint


def is_retired(path: Path) -> bool:
    return path.name.startswith(RETIRED)


def files_at(path: Path) -> list[FeatureFile]:
    """One feature file, or all of a store. Raises CacheError if `path` is neither."""
    return [FeatureFile(path)] if path.is_file() else Store(path).files()


def h5_files(folder: Path) -> list[Path]:
    """The .h5 files of a folder, by name; none if it does not exist. Raises OSError."""
    return [path for path in _entries(folder) if path.suffix == ".h5"]


def _entries(folder: Path) -> list[Path]:
    """Not by `glob`, which returns nothing for a folder that cannot be read."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
