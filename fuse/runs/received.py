"""What a run folder says of itself, checked value by value before it is used: it may come from a stranger."""

import json
import math
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import torch

from twofold.cache.errors import CacheError
from twofold.cache.recipe import Recipe
from twofold.data.errors import InputError
from twofold.fuse.heads.registry import StandardisedHead
from twofold.fuse.heads.spec import Spec
from twofold.fuse.runs.values import choice, counter, items, number, refused, short, table, text
from twofold.fuse.settings import HEADS, RULES

MOST_JSON = 32 << 20  #: bytes of run.json
MOST_HEADER = 1 << 20  #: bytes of the header of head.safetensors
MOST_STREAMS, MOST_FOLDS, MOST_MEMBERS, MOST_CLASSES = 256, 1_000, 100_000, 500
MOST_DIM, MOST_HIDDEN = 65_536, 1_000_000


def read_record(path: Path) -> dict[str, Any]:
    """run.json as a dict. Raises InputError if it is none, or too large, FileNotFoundError if there is no such file."""
    if path.stat().st_size > MOST_JSON:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for the record of a run")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({short(error)}): the run does not read back") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not the record of a run")
    return record


def spec_of(record: dict[str, Any], path: Path) -> Spec:
    """The head that a record describes. Raises InputError for any value that a head of ours cannot have."""
    head = table(record.get("head"), path, "head")
    names = {field.name for field in fields(Spec)}
    strange = [name for name in head if name not in names]
    if strange:
        raise refused(path, "head", f"{strange[0]!r} is unknown")
    count = counter(path)
    spec = Spec(
        kind=choice(head.get("kind"), HEADS, path, "head.kind"),
        dims=tuple(count(dim, f"head.dims[{k}]", MOST_DIM)
                   for k, dim in enumerate(items(head.get("dims"), path, "head.dims", MOST_STREAMS))),
        classes=classes_of(head.get("classes"), path),
        members=count(head.get("members"), "head.members", MOST_MEMBERS),
        hidden=count(head.get("hidden", Spec.hidden), "head.hidden", MOST_HIDDEN),
        dropout=number(head.get("dropout", Spec.dropout), path, "head.dropout", lambda value: 0 <= value < 1),
        projection=count(head.get("projection", Spec.projection), "head.projection", MOST_HIDDEN),
        rule=choice(head.get("rule", Spec.rule), RULES, path, "head.rule"),
        own=choice(head.get("own", Spec.own), (False, True), path, "head.own"))
    if spec.members * len(spec.classes) > 10 * MOST_MEMBERS:
        raise refused(path, "head", f"{spec.members} members of {len(spec.classes)} classes are too many")
    return spec


def classes_of(value: object, path: Path) -> tuple[str, ...]:
    """The names of the classes: texts, each once."""
    classes = tuple(text(name, path, f"classes[{k}]")
                    for k, name in enumerate(items(value, path, "classes", MOST_CLASSES)))
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise refused(path, "classes", "two different ones are needed, each once")
    return classes


def streams_of(record: dict[str, Any], spec: Spec, path: Path) -> tuple[tuple[str, str, Recipe], ...]:
    """(backbone, view, recipe) of each stream, in the order of the head's columns."""
    listed = items(record.get("streams"), path, "streams", MOST_STREAMS)
    if len(listed) != len(spec.dims):
        raise refused(path, "streams", f"there are {len(listed)} for a head on {len(spec.dims)}")
    streams = []
    for k, value in enumerate(listed):
        where, stream = f"streams[{k}]", table(value, path, f"streams[{k}]")
        backbone = text(stream.get("backbone"), path, f"{where}.backbone")
        view = text(stream.get("view"), path, f"{where}.view")
        try:
            recipe = Recipe.from_json(json.dumps(stream.get("recipe")))
            fingerprint = recipe.fingerprint
        except (CacheError, RecursionError, ValueError) as error:
            raise refused(path, f"{where}.recipe", short(error)) from None
        if (recipe.backbone, recipe.view.get("name")) != (backbone, view):
            raise refused(path, f"{where}.recipe", f"it is not that of {short(backbone)} ({short(view)})")
        if stream.get("dim", spec.dims[k]) != spec.dims[k]:
            raise refused(path, f"{where}.dim", f"it is {short(stream['dim'])}, the head takes {spec.dims[k]}")
        if stream.get("fingerprint", fingerprint) != fingerprint:
            raise refused(path, f"{where}.fingerprint", f"its recipe's is {fingerprint}")
        streams.append((backbone, view, recipe))
    return tuple(streams)


def temperatures_of(record: dict[str, Any], spec: Spec, path: Path) -> tuple[float, tuple[float, ...]]:
    """The temperature of the whole, and that of each fold."""
    folds = len(items(record.get("faces"), path, "faces", MOST_FOLDS))
    if spec.members % folds:
        raise refused(path, "faces", f"{spec.members} members cannot stem from {folds} folds")

    def temperature(value: object, where: str) -> float:
        return number(value, path, where, lambda number: 1e-3 <= number <= 1e3)

    whole = temperature(record.get("temperature"), "temperature")
    each = items(record.get("temperatures", [whole] * folds), path, "temperatures", MOST_FOLDS)
    if len(each) != folds:
        raise refused(path, "temperatures", f"there are {len(each)} for {folds} folds")
    return whole, tuple(temperature(value, f"temperatures[{k}]") for k, value in enumerate(each))


def read_head(path: Path, spec: Spec) -> StandardisedHead:
    """The head of a spec with the weights of a safetensors file.

    Names, types and shapes are compared with the file's header, and the header with the file's size, before anything
    is allocated; values must be finite, deviations positive. Raises InputError.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in StandardisedHead(spec).state_dict().items()}
    with path.open("rb") as file:
        entries, start = _entries(file, path, expected)
        state = {}
        for name, shape in expected.items():
            file.seek(start + entries[name])
            values = bytearray(4 * math.prod(shape))
            file.readinto(values)
            state[name] = torch.frombuffer(values, dtype=torch.float32).reshape(shape)
            if name != "body.absent" and not torch.isfinite(state[name]).all():  # -inf: a basic that nothing taught
                raise InputError(f"{path}: {name} has values that are no finite numbers: train the run again")
    if not (state["std"] > 0).all() or not (state.get("body.absent", torch.zeros(1)) <= 0).all():
        raise InputError(f"{path}: its standard deviations are not all positive: train the run again")
    head = StandardisedHead(spec)
    head.load_state_dict(state)
    return head.eval()


def _entries(file: BinaryIO, path: Path, expected: dict[str, tuple[int, ...]]) -> tuple[dict[str, int], int]:
    """Where each tensor begins after the header, and where that ends."""
    size = path.stat().st_size
    length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
    if not 2 <= length <= min(MOST_HEADER, size - 8):
        raise InputError(f"{path}: not the weights of a head: train the run again")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not the weights of a head: train the run again") from None
    header = table(header, path, "the header")
    entries = {name: table(entry, path, name) for name, entry in header.items() if name != "__metadata__"}
    if set(entries) != set(expected):
        odd = sorted(set(entries) ^ set(expected))[0]
        raise InputError(f"{path}: {short(odd)} is {'not in' if odd in expected else 'no part of'} the head that "
                         "run.json describes")
    starts, start = {}, 8 + length
    for name, entry in entries.items():
        offsets, shape = entry.get("data_offsets"), expected[name]
        if entry.get("dtype") != "F32" or entry.get("shape") != list(shape):
            raise InputError(f"{path}: {name} is {short(entry.get('dtype'))} {short(entry.get('shape'))}, not F32 "
                             f"{list(shape)} as run.json describes the head")
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(value) is int for value in offsets)
                and offsets[0] >= 0 and offsets[1] - offsets[0] == 4 * math.prod(shape)):
            raise InputError(f"{path}: {name} has no place in the file: it was altered, train the run again")
        starts[name] = offsets[0]
    whole = sum(4 * math.prod(shape) for shape in expected.values())
    if max(starts[name] + 4 * math.prod(shape) for name, shape in expected.items()) > whole or start + whole != size:
        raise InputError(f"{path}: {size:,} bytes, where the head that run.json describes takes {start + whole:,}: "
                         "it was cut short or altered, train the run again")
    return starts, start
