"""What `finetune` writes besides an encoder's own entries: preprocessing, classifiers, and the training samples.

The names of these entries start with `twofold.`; the rest loads into the architecture as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier, TrainingSamples
from twofold.data.labels import Taxonomy
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import require_names
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.weights.read import Checkpoint

PREFIX = "twofold."
SHA256, GROUPS = f"{PREFIX}taught.sha256", f"{PREFIX}taught.groups"
PREPROCESSING = "preprocessing"
OWN = "own"
TARGETS = ("basic", "compound", OWN)  #: whose classifier becomes the encoder's, the first that it has


def split_entries(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    """The checkpoint without what `finetune` added, and that."""
    extra = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(PREFIX)}
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in extra}
    return replace(checkpoint, tensors=rest), extra


def preprocessing_of(checkpoint: Checkpoint | None) -> Preprocessing | None:
    """How the faces were prepared that this encoder learned from; None for files of others. Raises InputError."""
    if checkpoint is None or PREPROCESSING not in checkpoint.metadata:
        return None
    try:
        record: dict[str, Any] = json.loads(checkpoint.metadata[PREPROCESSING])
        record |= {name: tuple(record[name]) for name in ("mean", "std")}
        return Preprocessing(**record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{checkpoint.path}: its preprocessing does not read back ({error})") from None


def preprocessing_json(how: Preprocessing) -> str:
    """The same as text for the file."""
    return json.dumps(asdict(how), sort_keys=True)


def classifier_tensors(classifiers: Mapping[str, nn.Linear], samples: TrainingSamples) -> dict[str, torch.Tensor]:
    """The entries that are added: the classifier of each target, and the samples that were used in training."""
    entries = {f"{PREFIX}{target if target in TARGETS else OWN}.{name}": tensor
               for target, layer in classifiers.items() for name, tensor in layer.state_dict().items()}
    return entries | {SHA256: torch.from_numpy(samples.sha256), GROUPS: torch.from_numpy(samples.groups)}


def classes_metadata(taxonomies: Mapping[str, Taxonomy]) -> dict[str, str]:
    """The classes of each target as metadata: canonical names with commas between, one's own as JSON."""
    canonical = {f"{target}_classes": ",".join(names.classes) for target, names in taxonomies.items()
                 if target in TARGETS[:2]}
    own = {f"{OWN}_classes": json.dumps(names.classes, ensure_ascii=False) for target, names in taxonomies.items()
           if target not in TARGETS[:2]}
    return canonical | own


def finetuned_classifier(checkpoint: Checkpoint, extra: Mapping[str, torch.Tensor]) -> BackboneClassifier | None:
    """The classifier that became the encoder's own: of basics where it learned them, else of compounds or of classes of
    one's own; None for files of others. Raises InputError where its entries do not fit together."""
    target = next((name for name in TARGETS if f"{PREFIX}{name}.weight" in extra), None)
    if target is None:
        return None
    metadata, path = checkpoint.metadata, checkpoint.path
    classes = _classes_in(metadata.get(f"{target}_classes", ""), path)
    require_names(classes, path)
    weight, bias = (extra.get(f"{PREFIX}{target}.{name}", torch.empty(0)) for name in ("weight", "bias"))
    if weight.ndim != 2 or weight.shape[0] != len(classes) or bias.shape != (len(classes),):
        raise InputError(f"{path}: its {target} classifier is {tuple(weight.shape)} and {tuple(bias.shape)} for "
                         f"{len(classes)} classes: fine-tune again")
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise InputError(f"{path}: its classifier holds numbers that are not finite, so the file is damaged")
    return BackboneClassifier(classes, weight.float().T.numpy().copy(), bias.float().numpy().copy(),
                         training_samples_of(checkpoint, extra))


def _classes_in(text: str, path: Path) -> tuple[str, ...]:
    if not text.startswith("["):
        return tuple(filter(None, text.split(",")))
    try:
        return tuple(str(name) for name in json.loads(text))
    except ValueError:
        raise InputError(f"{path}: the classes that it names do not read back: fine-tune again") from None


def training_samples_of(checkpoint: Checkpoint, extra: Mapping[str, torch.Tensor]) -> TrainingSamples:
    """The training samples that a file of `finetune` names. Raises InputError where they are damaged."""
    rows = [extra.get(name, torch.empty(0)) for name in (SHA256, GROUPS)]
    for values, width in zip(rows, (32, 16), strict=True):
        if values.dtype != torch.uint8 or values.ndim != 2 or values.shape[1] != width:
            raise InputError(f"{checkpoint.path}: its training samples do not read back: fine-tune again")
    fold, folds, training = (checkpoint.metadata.get(name, "") for name in ("fold", "folds", "fold_set"))
    return TrainingSamples(rows[0].numpy(), rows[1].numpy(), fold=int(fold) if fold.isdecimal() else -1,
                           folds=int(folds) if folds.isdecimal() else 0, training_id=training)
