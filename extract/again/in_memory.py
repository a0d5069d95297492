"""Extraction of faces that are in memory, some at a time, with exactly the recipes of an earlier run."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from twofold.cache.recipe import Recipe
from twofold.cache.store import Store
from twofold.data.images.decode import FACE_LIMITS, ImageError, Limits
from twofold.data.images.sources import NO_FACE, ImageSource, hash_images
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.again.reproduce import find_encoders
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.engine.engine import compute
from twofold.extract.engine.stop import Stop
from twofold.extract.plan import ExtractOptions, Job, WantedFile, plan
from twofold.extract.run import finish, own_store
from twofold.extract.views import view


class Chunk(ImageSource, Protocol):
    """Some faces: `keys` in order, and a source that reads them."""

    @property
    def keys(self) -> list[str]: ...


class Nothing:
    """The source of keys that stand for pictures without a face."""

    limits: Limits = FACE_LIMITS

    def read(self, key: str) -> bytes:
        raise ImageError(NO_FACE)


def extract_in_memory(recipes: Sequence[Recipe], chunks: Iterable[Chunk], manifest: Callable[[], Manifest], *,
                      store: Path, weights: Sequence[str], device: str, dims: Sequence[int] = ()) -> int:
    """Extract faces as they come, and nothing else, into the store; returns the signal that stopped it, or 0.

    The values are those that `extract` gives for the same bytes in files. manifest: called once the chunks have come,
    for all their keys and those without a face; dims: as `reproduce` takes them. Raises InputError, before a face is
    read, where what is here would make another recipe than those of the run, or the store is of other faces.
    """
    place, seen = own_store(store), set()
    before = _keys_before(place)
    encoders = find_encoders(recipes, weights=weights, device=device.split(",")[0], dims=dims)
    files = [WantedFile(recipe, encoder.dim, encoder.classifier)
             for recipe, encoder in zip(recipes, encoders, strict=True)]
    place.path.mkdir(parents=True, exist_ok=True)
    with Stop() as stop:
        for chunk in chunks:
            stopped_by = _compute(files, encoders, place, chunk.keys, chunk)
            seen.update(chunk.keys)
            if stopped_by or stop.signal:
                return stopped_by or stop.signal
        table = manifest()
        _require_all(place, before, table)
        _compute(files, encoders, place, [key for key in table.keys if key not in seen], Nothing())
    write_manifest(table, place.manifest_path)
    finish(place, plan(place, table.keys, files, options=ExtractOptions()), table.keys)
    return 0


def _keys_before(store: Store) -> list[str]:
    """The keys of a store that is there already. Raises InputError for one whose faces did not come from footage."""
    if not store.manifest_path.is_file():
        return []
    table = read_manifest(store.manifest_path).table
    labelled = (table[["split", "basic", "compound"]] != "").any(axis=None)
    if labelled or not {"source", "frame", "track"} <= set(table):
        raise InputError(f"{store.path}: a store of other faces, which would be lost: choose another --store")
    return table["key"].tolist()


def _require_all(store: Store, before: Sequence[str], table: Manifest) -> None:
    lost = sorted(set(before) - set(table.keys))
    if lost:
        raise InputError(f"{store.path} holds {len(lost)} faces of other footage, which would be lost (the first is "
                         f"{lost[0]}): name those inputs too, or choose another --store")


def _compute(files: Sequence[WantedFile], encoders: Sequence[Encoder], store: Store, keys: list[str],
             source: ImageSource) -> int:
    """What the store has of the same bytes is not computed again; returns the signal that stopped it, or 0."""
    options = ExtractOptions(retry_failures=True)
    plans = plan(store, keys, files, options=options, hashes=hash_images(source, keys))
    jobs = [Job(encoder, view(file.recipe.view["name"]), file.recipe, file.missing)
            for file, encoder in zip(plans, encoders, strict=True)]
    return compute(jobs, keys, source, store, options=options, progress=False).stopped_by
