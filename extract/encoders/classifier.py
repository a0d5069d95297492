"""The classifier that a checkpoint brings besides its encoder, the order of its classes, and what `finetune` adds.

A wrong order scores about 11 %. The names of the entries that `finetune` adds start with `twofold.`; the rest loads
into the architecture as it is. Imports no torch until such a file is read.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twofold.cache.classifier import BackboneClassifier, TrainingSamples
from twofold.data.labels import JOINERS, TAXONOMIES, canonical_label, load_taxonomy
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from twofold.extract.weights.read import Checkpoint

log = logging.getLogger(__name__)

MAX_CLASSES = 100  #: more than these are identities or objects rather than expressions
_AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
#: class orders by the dataset that a checkpoint was trained on
CLASS_ORDERS: dict[str, tuple[str, ...]] = {
    "rafdb": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
    "affectnet7": _AFFECTNET, "affectnet8": (*_AFFECTNET, "contempt")}
OrderOfFile = Callable[[str, int], tuple[str, ...]]  #: from a file's name and the number of classes
LinearLayer = tuple[np.ndarray, np.ndarray]  #: weight (D, C) and bias (C,), float32
MAX_NAMES_LENGTH = 4_000  #: characters that the names of all classes have together
ALPHABETICAL = "alphabetical:"
CLASS_ORDER_HELP = (
    "say it with --classes-of NAME=ORDER, where ORDER is rafdb, affectnet7, affectnet8, a taxonomy (basic7), "
    "alphabetical:basic7 for folders that were read in the order of their names, or the classes between commas")
PREFIX = "twofold."  #: of the entries that `finetune` adds
SHA256, GROUPS = f"{PREFIX}taught.sha256", f"{PREFIX}taught.groups"
PREPROCESSING = "preprocessing"
OWN = "own"
#: whose linear layer becomes the encoder's classifier, the first that it has
TARGETS = ("basic", "compound", OWN, "multilabel", "regression")


# ------------------------------------------------------------------------------------------------ order of classes
def class_order(text: str) -> tuple[str, ...]:
    """Parse a class order: a dataset of CLASS_ORDERS, a taxonomy or its file, `alphabetical:` before one of these, or
    names between commas. Raises InputError for anything else."""
    if text.startswith(ALPHABETICAL):
        return tuple(sorted(class_order(text.removeprefix(ALPHABETICAL))))
    if text in CLASS_ORDERS:
        return CLASS_ORDERS[text]
    if text in ("caers", "caer-s"):
        raise InputError("the class order of CAER-S checkpoints is not certain: it is alphabetical:basic7 if they were "
                         "trained on its folders as they are, rafdb if somebody put them into RAF-DB's order; try both "
                         "on faces with labels")
    if text.endswith(".toml") or text in (builtin.name for builtin in TAXONOMIES):
        return load_taxonomy(text).classes
    if "," not in text:
        raise InputError(f"unknown class order {text!r}: {CLASS_ORDER_HELP}")
    names = tuple(canonical_label(name.strip()) for name in text.split(","))
    if not all(map(str.isprintable, names)) or not all(names) or len(set(names)) != len(names):
        raise InputError(f"class order {text!r}: a class has no name, or two have the same")
    return names


def _require_names(names: Sequence[str], path: Path) -> None:
    """Raise InputError for classes that no feature file may have: without a name, twice the same, endless ones."""
    bare = [name.translate(dict.fromkeys(map(ord, JOINERS))) for name in names]
    usable = all(name.isprintable() and name.strip() for name in bare) and len(set(names)) == len(names)
    if not usable or sum(map(len, names)) > MAX_NAMES_LENGTH:
        raise InputError(f"{path}: the classes that it names are no different short names: say their order with "
                         "--classes-of")


# ----------------------------------------------------------------------------------------- of a checkpoint's author
def single_linear_layer(entries: "Mapping[str, torch.Tensor]", *, dim: int) -> LinearLayer | None:
    """The linear layer of a classifier's entries, from `dim` numbers on, or None where there is more, or less, to it.

    What lies between (another layer, a norm) would make the logits something else than an affine map of the embedding.
    """
    names = sorted(entries, key=lambda name: name.endswith(".weight"))
    if len(names) != 2 or names[0].removesuffix("bias") != names[1].removesuffix("weight"):
        return None
    bias, weight = (entries[name].float() for name in names)
    if weight.shape[1:] not in ((dim,), (dim, 1, 1)) or bias.shape != weight.shape[:1]:
        return None
    return weight.reshape(len(weight), dim).T.numpy().copy(), bias.numpy().copy()


def checkpoint_classifier(name: str, layer: LinearLayer | None, checkpoint: "Checkpoint", *,
                          classes: tuple[str, ...] = (), order_of_file: OrderOfFile | None = None,
                          ) -> tuple[BackboneClassifier | None, int]:
    """The layer with its classes; or None, and of how many classes it is where nobody says their order.

    name: the backbone's; classes: the order that the user gave; order_of_file: what the preset says, where the file
    names no classes itself. Raises InputError for an order of another number of classes, or for numbers that are not
    finite.
    """
    if layer is None:
        if classes:
            raise InputError(f"--classes-of {name}: {checkpoint.path} brings no classifier of one linear layer")
        return None, 0
    count, file = len(layer[1]), checkpoint.path
    if classes and len(classes) != count:
        raise InputError(f"--classes-of {name}: {len(classes)} classes are named, the classifier of {file} has {count}")
    if not classes and (written := checkpoint.metadata.get("classes")):
        classes = tuple(written.split(","))
        _require_names(classes, file)
        classes = classes if len(classes) == count else ()
    elif not classes and order_of_file:
        classes = order_of_file(file.name, count)
    if not classes and count > MAX_CLASSES:
        log.info("%s: the %d classes of %s are no expressions, its classifier is left aside", name, count, file.name)
        return None, 0
    if not classes:
        log.info("%s: the order of the %d classes of %s is not known, its classifier is left aside: %s", name, count,
                 file.name, CLASS_ORDER_HELP)
        return None, count
    return _finite(BackboneClassifier(classes, *layer), file), 0


def _finite(classifier: BackboneClassifier, path: Path) -> BackboneClassifier:
    if not (np.isfinite(classifier.weight).all() and np.isfinite(classifier.bias).all()):
        raise InputError(f"{path}: its classifier holds numbers that are not finite, so the file is damaged")
    return classifier


# ------------------------------------------------------------------------------------------ what `finetune` writes
def finetuned_entries(classifiers: "nn.ModuleDict", samples: TrainingSamples) -> "dict[str, torch.Tensor]":
    """The entries that are added: the classifier of each target, and the samples that were used in training."""
    import torch

    entries = {f"{PREFIX}{target if target in TARGETS else OWN}.{name}": tensor
               for target, layer in classifiers.items() for name, tensor in layer.state_dict().items()}
    return entries | {SHA256: torch.from_numpy(samples.sha256), GROUPS: torch.from_numpy(samples.groups)}


def finetuned_metadata(how: Preprocessing, outputs: Mapping[str, Sequence[str]], samples: TrainingSamples
                       ) -> dict[str, str]:
    """Preprocessing, classes or columns of each target (canonical names with commas between, one's own as JSON), and
    the fold."""
    metadata = {PREPROCESSING: json.dumps(asdict(how), sort_keys=True)}
    for target, names in outputs.items():
        text = ",".join(names) if target in TARGETS[:2] else json.dumps(names, ensure_ascii=False)
        metadata[f"{target if target in TARGETS else OWN}_classes"] = text
    if samples.folds:
        metadata |= {"fold": str(samples.fold), "folds": str(samples.folds), "fold_set": samples.training_id}
    return metadata


def split_entries(checkpoint: "Checkpoint") -> "tuple[Checkpoint, dict[str, torch.Tensor]]":
    """The checkpoint without what `finetune` added, and that."""
    extra = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(PREFIX)}
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in extra}
    return replace(checkpoint, tensors=rest), extra


def preprocessing_of(checkpoint: "Checkpoint | None") -> Preprocessing | None:
    """How the faces were prepared that this encoder learned from; None for files of others. Raises InputError."""
    if checkpoint is None or PREPROCESSING not in checkpoint.metadata:
        return None
    try:
        record: dict[str, Any] = json.loads(checkpoint.metadata[PREPROCESSING])
        record |= {name: tuple(record[name]) for name in ("mean", "std")}
        return Preprocessing(**record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{checkpoint.path}: its preprocessing does not read back ({error})") from None


def finetuned_classifier(checkpoint: "Checkpoint", extra: "Mapping[str, torch.Tensor]") -> BackboneClassifier | None:
    """The classifier that became the encoder's own: of basics where it learned them, else of compounds or of classes of
    one's own; None for files of others. Raises InputError where its entries do not fit together."""
    target = next((name for name in TARGETS if f"{PREFIX}{name}.weight" in extra), None)
    if target is None:
        return None
    path, text = checkpoint.path, checkpoint.metadata.get(f"{target}_classes", "")
    try:
        classes = tuple(map(str, json.loads(text) if text.startswith("[") else filter(None, text.split(","))))
    except ValueError:
        raise InputError(f"{path}: the classes that it names do not read back: fine-tune again") from None
    _require_names(classes, path)
    weight, bias = (_array(extra, f"{PREFIX}{target}.{name}") for name in ("weight", "bias"))
    if weight.ndim != 2 or weight.shape[0] != len(classes) or bias.shape != (len(classes),):
        raise InputError(f"{path}: its {target} classifier is {weight.shape} and {bias.shape} for {len(classes)} "
                         "classes: fine-tune again")
    return _finite(BackboneClassifier(classes, np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32),
                                      training_samples_of(checkpoint, extra)), path)


def training_samples_of(checkpoint: "Checkpoint", extra: "Mapping[str, torch.Tensor]") -> TrainingSamples:
    """The training samples that a file of `finetune` names. Raises InputError where they are damaged."""
    rows = [_array(extra, name) for name in (SHA256, GROUPS)]
    for values, width in zip(rows, (32, 16), strict=True):
        if values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] != width:
            raise InputError(f"{checkpoint.path}: its training samples do not read back: fine-tune again")
    fold, folds, training = (checkpoint.metadata.get(name, "") for name in ("fold", "folds", "fold_set"))
    return TrainingSamples(*rows, fold=int(fold) if fold.isdecimal() else -1,
                           folds=int(folds) if folds.isdecimal() else 0, training_id=training)


def _array(entries: "Mapping[str, torch.Tensor]", name: str) -> np.ndarray:
    """An entry as an array, an empty one where it is missing."""
    tensor = entries.get(name)
    return np.empty(0) if tensor is None else (tensor.float() if tensor.is_floating_point() else tensor).numpy()
