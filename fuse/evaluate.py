"""A trained head on another cache."""

from pathlib import Path

import torch

from cache.recipe import differences
from cache.store import Store
from data.errors import InputError
from fuse.features import FusedFeatures, join
from fuse.report import Table
from fuse.runfile import Run, read_run
from fuse.score import score
from fuse.train import probabilities


def evaluate(run_path: Path, store: Path, *, split: str = "test") -> Table:
    """Score a Run on the labelled faces of a store: those of `split`, or all where `split` is empty.

    Raises InputError if the store's features were not made as those the Run was trained on; another precision alone
    is a note in the table.
    """
    run = read_run(run_path)
    views = list(dict.fromkeys(recipe.view["name"] for recipe in run.recipes.values()))
    backbones = list(dict.fromkeys(_named(Store(store), recipe) for recipe in run.recipes.values()))
    features = join(Store(store), backbones=backbones, views=views, taxonomy=run.classes)
    remarks = check_recipes(run, features)
    rows = (features.split == split) if split else features.split == features.split
    if not rows.any():
        raise InputError(f"{store}: no labelled face has the split {split!r}: choose another --split, or '' for all")
    x = torch.from_numpy(run.standard.apply(features.blocks, rows.nonzero()[0]))
    chances = probabilities(run.parameters, x).numpy()
    names = list(run.recipes)
    one = score(" + ".join(names), features.labels[rows], chances, features.group[rows], dim=x.shape[1],
                untrained=bool(features.untrained), best_epochs=[])
    return Table(title=f"{run_path.name} on {store}, {split or 'all'} faces", classes=run.classes.classes, scores=[one],
                 seeds=len(run.seeds), notes=remarks, left_out=features.left_out, out=None)


def check_recipes(run: Run, features: FusedFeatures) -> list[str]:
    """Remarks on harmless differences between the features and those of the Run; raises InputError on others."""
    remarks = []
    for name, recipe in run.recipes.items():
        found = features.recipes.get(name)
        if found is None:
            raise InputError(f"the Run needs features of {name}, and the store has none")
        changed = differences(recipe, found)
        said = ", ".join(f"{field} {ours!r} there, {theirs!r} here" for field, (ours, theirs) in changed.items())
        if set(changed) - {"precision", "dtype"}:
            raise InputError(f"the features of {name} were made another way than those the Run was trained on: {said}")
        if changed:
            remarks.append(f"note: {name}: {said}")
    return remarks


def _named(store: Store, recipe) -> str:
    """The backbone with the Run's own fingerprint where the store has it, else by name alone."""
    own = [file for file in store.readable()[0] if file.recipe == recipe]
    return f"{recipe.backbone}@{recipe.fingerprint}" if own else recipe.backbone
