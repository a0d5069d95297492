"""What a run folder says of itself, checked value by value before it is used: it may come from a stranger."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from twofold.cache.errors import CacheError
from twofold.cache.recipe import Recipe
from twofold.data.utils.errors import InputError
from twofold.fuse.heads.head import StandardisedHead
from twofold.fuse.runs.values import Value, short
from twofold.fuse.settings import HEADS, RULES
from twofold.fuse.training.ensemble import Spec

MOST_HEADER = 1 << 20  #: bytes of the header of head.safetensors
MOST_STREAMS, MOST_FOLDS, MOST_MEMBERS, MOST_CLASSES = 256, 1_000, 100_000, 500
MOST_DIM, MOST_HIDDEN = 65_536, 1_000_000


def spec_of(record: Value) -> Spec:
    """The head that a record describes. Raises InputError for any value that a head of ours cannot have."""
    head = record["head"]
    strange = head.table().keys() - {field.name for field in fields(Spec)}
    if strange:
        raise head.refused(f"{short(min(strange))} is unknown")
    spec = Spec(
        kind=head["kind"].choice(HEADS), dims=tuple(dim.count(MOST_DIM) for dim in head["dims"].items(MOST_STREAMS)),
        classes=classes_of(head["classes"]), members=head["members"].count(MOST_MEMBERS),
        hidden=head.get("hidden", Spec.hidden).count(MOST_HIDDEN),
        dropout=head.get("dropout", Spec.dropout).number(lambda value: 0 <= value < 1),
        projection=head.get("projection", Spec.projection).count(MOST_HIDDEN),
        rule=head.get("rule", Spec.rule).choice(RULES), own=head.get("own", Spec.own).choice((False, True)))
    if spec.members * len(spec.classes) > 10 * MOST_MEMBERS:
        raise head.refused(f"{spec.members} members of {len(spec.classes)} classes are too many")
    return spec


def classes_of(value: Value) -> tuple[str, ...]:
    """The names of the classes: texts, each once."""
    classes = tuple(name.text() for name in value.items(MOST_CLASSES))
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise value.refused("two different ones are needed, each once")
    return classes


def streams_of(record: Value, spec: Spec) -> tuple[tuple[str, str, Recipe], ...]:
    """(backbone, view, recipe) of each stream, in the order of the head's columns."""
    streams = list(record["streams"].items(MOST_STREAMS))
    if len(streams) != len(spec.dims):
        raise record["streams"].refused(f"there are {len(streams)} for a head on {len(spec.dims)}")
    return tuple(_stream_of(stream, dim) for stream, dim in zip(streams, spec.dims, strict=True))


def _stream_of(stream: Value, dim: int) -> tuple[str, str, Recipe]:
    backbone, view, written = stream["backbone"].text(), stream["view"].text(), stream["recipe"]
    try:
        recipe = Recipe.from_json(json.dumps(written.value))
        fingerprint = recipe.fingerprint
    except (CacheError, RecursionError, ValueError) as error:
        raise written.refused(short(error)) from None
    if (recipe.backbone, recipe.view.get("name")) != (backbone, view):
        raise written.refused(f"it is not that of {short(backbone)} ({short(view)})")
    if stream.get("dim", dim).value != dim:
        raise stream["dim"].refused(f"it is {stream['dim']}, the head takes {dim}")
    if stream.get("fingerprint", fingerprint).value != fingerprint:
        raise stream["fingerprint"].refused(f"its recipe's is {fingerprint}")
    return backbone, view, recipe


def temperatures_of(record: Value, spec: Spec) -> tuple[float, tuple[float, ...]]:
    """The temperature of the whole, and that of each fold."""
    folds = len(list(record["faces"].items(MOST_FOLDS)))
    if spec.members % folds:
        raise record["faces"].refused(f"{spec.members} members cannot stem from {folds} folds")
    whole = record["temperature"].number(is_temperature)
    each = record.get("temperatures", [whole] * folds)
    temperatures = tuple(value.number(is_temperature) for value in each.items(MOST_FOLDS))
    if len(temperatures) != folds:
        raise each.refused(f"there are {len(temperatures)} for {folds} folds")
    return whole, temperatures


def is_temperature(value: float) -> bool:
    return 1e-3 <= value <= 1e3


def read_head(path: Path, spec: Spec) -> StandardisedHead:
    """The head of a spec with the weights of a safetensors file.

    Names, types and shapes are compared with the file's header, and the sizes of both with the file's, before anything
    is allocated; values must be finite, deviations positive. Raises InputError.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in StandardisedHead(spec).state_dict().items()}
    size, needed = path.stat().st_size, sum(4 * math.prod(shape) for shape in expected.values())
    if not needed < size <= needed + MOST_HEADER:
        raise InputError(f"{path}: {size:,} bytes, where the head that run.json describes takes {needed:,}: it was cut "
                         "short or altered, train the run again")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: _tensor(file, name, shape, path) for name, shape in expected.items()}
            surplus = sorted(set(file.keys()) - set(expected))
    except SafetensorError as error:
        raise InputError(f"{path}: not the weights of the head that run.json describes ({short(error)}): train the run "
                         "again") from None
    if surplus:
        raise InputError(f"{path}: {short(surplus[0])} is no part of the head that run.json describes")
    if not (state["std"] > 0).all() or not (state.get("body.absent", torch.zeros(1)) <= 0).all():
        raise InputError(f"{path}: its standard deviations are not all positive: train the run again")
    head = StandardisedHead(spec)
    head.load_state_dict(state)
    return head.eval()


def _tensor(file: Any, name: str, shape: torch.Size, path: Path) -> torch.Tensor:
    entry = file.get_slice(name)
    if entry.get_dtype() != "F32" or entry.get_shape() != list(shape):
        raise InputError(f"{path}: {name} is {short(entry.get_dtype())} {short(entry.get_shape())}, not F32 "
                         f"{list(shape)} as run.json describes the head")
    tensor = file.get_tensor(name)
    if name != "body.absent" and not torch.isfinite(tensor).all():  # -inf: a basic that nothing taught
        raise InputError(f"{path}: {name} has values that are no finite numbers: train the run again")
    return tensor
