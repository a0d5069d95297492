"""Features of several backbones joined by key with the labels of the manifest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cache.featurefile import FeatureFile
from cache.recipe import Recipe
from cache.store import Store
from data.errors import InputError
from data.labels import Taxonomy


@dataclass(frozen=True, kw_only=True)
class FusedFeatures:
    """N labelled faces, each with an embedding of every stream, in manifest order.

    blocks: stream name to (N, D) float32; labels: (N,) int, positions in `taxonomy.classes`; split and group: (N,)
    texts; left_out: reason to number of faces of the manifest that are not among the N.
    """

    keys: np.ndarray
    split: np.ndarray
    group: np.ndarray
    labels: np.ndarray
    taxonomy: Taxonomy
    blocks: dict[str, np.ndarray]
    recipes: dict[str, Recipe]
    left_out: Counter = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def untrained(self) -> list[str]:
        """Streams made with random weights."""
        return [name for name, recipe in self.recipes.items() if recipe.untrained]

    def matrix(self, streams: Sequence[str]) -> np.ndarray:
        """(N, sum of D): the streams side by side."""
        return np.concatenate([self.blocks[name] for name in streams], axis=1)


def join(store: Store, *, backbones: Sequence[str] = (), views: Sequence[str] = ("original",),
         taxonomy: Taxonomy) -> FusedFeatures:
    """Join the feature files of a store by key with its manifest.

    backbones: names, with `@FINGERPRINT` where the store has several; none means all that have the first view. Each
    (backbone, view) is a stream. Faces without a label of the taxonomy, or missing in any stream, are left out and
    counted. Raises InputError if nothing is left, CacheError where the store lacks a stream.
    """
    from data.manifest import read_manifest

    files = streams(store, backbones=backbones, views=views)
    table = read_manifest(store.manifest_path).table
    left_out: Counter = Counter()
    label = table[taxonomy.target].to_numpy(object)
    wanted = np.isin(label, taxonomy.classes)
    for text, count in Counter(label[~wanted].tolist()).items():
        left_out[f"no {taxonomy.target} label" if not text else f"label outside {taxonomy.name}"] += count
    for name, file in files.items():
        present = table["key"].isin(file.position).to_numpy()
        if gone := int((wanted & ~present).sum()):
            left_out[f"no features of {name}"] += gone
        wanted &= present
    if not wanted.any():
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        raise InputError(f"{store.path}: no face has both a label of {taxonomy.name} and all features ({reasons})")
    rows = table[wanted]
    keys = rows["key"].to_numpy(object)
    return FusedFeatures(
        keys=keys, split=rows["split"].to_numpy(object), group=rows["group"].to_numpy(object),
        labels=np.array([taxonomy.classes.index(text) for text in rows[taxonomy.target]]), taxonomy=taxonomy,
        blocks={name: file.read(keys) for name, file in files.items()},
        recipes={name: file.recipe for name, file in files.items()}, left_out=left_out,
    )


def streams(store: Store, *, backbones: Sequence[str], views: Sequence[str]) -> dict[str, FeatureFile]:
    """Stream name to feature file: the backbone's name, with `/VIEW` behind it where the view is not the original."""
    names = list(dict.fromkeys(backbones or store.backbones(views[0])))
    if not names:
        raise InputError(f"{store.path} has no features of the view {views[0]!r}: run `extract` first")
    files = {}
    for backbone in names:
        for view in views:
            file = store.find(backbone, view)
            files[stream_name(file)] = file
    return files


def stream_name(file: FeatureFile) -> str:
    """How tables call a feature file."""
    return file.backbone if file.view == "original" else f"{file.backbone}/{file.view}"
