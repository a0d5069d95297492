"""A run that nobody trained: compounds from the classifiers of basic expressions that encoders bring along."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.recipe import Recipe
from twofold.data.labels import BASIC, Taxonomy, taxonomy_record
from twofold.data.utils.errors import InputError
from twofold.fuse.core.choice import check_pairs
from twofold.fuse.core.kinds import Classification
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.split import SeenSamples
from twofold.fuse.heads.head import StandardisedHead
from twofold.fuse.heads.zeroshot import in_order_of_basics
from twofold.fuse.runs import schema
from twofold.fuse.runs.read import Run
from twofold.fuse.training.ensemble import Spec


def zero_shot_run(encoders: Sequence[tuple[str, Recipe, BackboneClassifier | None, int]], taxonomy: Taxonomy) -> Run:
    """The run of the head `zeroshot` on these encoders: their basic probabilities averaged, then its rule.

    encoders: each one's name as the user typed it, its recipe, its classifier, and of how many classes one is whose
    order nobody says. Raises InputError for an encoder without a classifier of all basic expressions that the classes
    are made of.
    """
    check_pairs(taxonomy)
    classifiers = [_usable(name, own, unnamed, taxonomy) for name, _, own, unnamed in encoders]
    settings, dims = Settings(head="zeroshot", classes=taxonomy.name), tuple(len(own.weight) for own in classifiers)
    spec = Spec(kind="zeroshot", dims=dims, classes=taxonomy.classes, members=1, rule=settings.rule, own=True,
                pairs=taxonomy.pairs)
    head = StandardisedHead(spec).eval()
    head.body.copy_classifiers(classifiers, head.mean, head.std)
    streams = tuple((recipe.backbone, recipe.view["name"], recipe) for _, recipe, _, _ in encoders)
    record = schema.RunRecord(
        version=1, created="now", settings=asdict(settings), classes_name=taxonomy.name, classes=taxonomy.classes,
        taxonomy=taxonomy_record(taxonomy), labels_sha256="none", temperature=1.0, temperatures=[1.0],
        streams=[schema.StreamRecord(name, view, dim, recipe.fingerprint, msgspec.json.decode(recipe.canonical()), [])
                 for (name, view, recipe), dim in zip(streams, dims, strict=True)],
        head=schema.HeadRecord(**{name: value for name, value in vars(spec).items() if name != "pairs"}, pairs=[]),
        faces=[schema.FoldSizes(0, 0, 0, 0)], crops=[], notes=[], seconds=0.0)
    return Run(Path("zero-shot"), record, settings, Classification(taxonomy), streams, head,
               SeenSamples(np.empty(0, "S64"), np.empty(0, "S32"), np.empty((0, 1), "S1")))


def _usable(name: str, own: BackboneClassifier | None, unnamed: int, taxonomy: Taxonomy) -> BackboneClassifier:
    if own is None:
        reason = (f"brings a classifier of {unnamed} classes whose order is not known: say it with --classes-of "
                  f"{name}=ORDER" if unnamed else "brings no classifier of expressions: name an encoder that was "
                  "trained on basic expressions")
        raise InputError(f"--zero-shot: {name} {reason}")
    if others := [each for each in own.classes if each not in BASIC]:
        raise InputError(f"--zero-shot: {name} brings a classifier of {', '.join(others[:3])}, which are no basic "
                         f"expressions ({', '.join(BASIC)}): name them with --classes-of, or choose another encoder")
    needed = dict.fromkeys(basic for basics in taxonomy.basics for basic in basics)
    if missing := [basic for basic in needed if basic not in own.classes]:
        raise InputError(f"--zero-shot: {name} knows no {' and no '.join(missing)}, which classes of {taxonomy.name} "
                         "are made of: choose another encoder")
    return in_order_of_basics(own)
