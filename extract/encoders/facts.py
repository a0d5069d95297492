"""What is known of an encoder without its network, and remembering it: a rerun with nothing to do builds no network."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.data.utils.atomic import write_text
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.encoders.preprocessing_options import split_name
from twofold.extract.weights.find import find_weights

LIBRARIES = ("torch", "torchvision", "timm")


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderFacts:
    """All that a recipe and a feature file say of an encoder; `Encoder` is one that can be run."""

    name: str
    architecture: str
    weights: str  #: `sha256:<hex>` over the tensors that are used, or `random:<seed>`
    tap: str
    dim: int
    preprocessing: Preprocessing
    precision: str
    classifier: BackboneClassifier | None = field(default=None, repr=False)  #: what the checkpoint brought along
    unnamed_classes: int = 0  #: of a classifier left aside, since nobody says in which order its classes are

    @property
    def untrained(self) -> bool:
        return self.weights.startswith("random:")


@dataclass(frozen=True)
class Origin:
    """What an encoder is made from, as `load_encoder` is told; folder: where weights without a path are looked for."""

    name: str
    weights: str | None
    classes: tuple[str, ...]
    folder: Path


class RememberedFacts:
    """Facts in files of the user's cache folder, each under the identity of all that they depend on.

    That is the backbone's name and options; its weights, a seed, or a file's path, size and times; the class order
    that was said; the source code that builds and loads networks; and the versions of the libraries. Precision is not
    among the facts that are kept.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or cache_folder() / "encoders"

    def recall(self, origin: Origin, *, precision: str) -> EncoderFacts | None:
        """The facts of an encoder that was loaded before, if they are remembered. ONNX models are not.

        Raises InputError, as loading it would, if its weights are not to be found.
        """
        path = self._path(origin)
        if path is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return _from_record(json.loads(path.read_text(encoding="utf-8")), precision)
        return None

    def remember(self, facts: EncoderFacts, origin: Origin) -> None:
        """Keep them for the next run; a folder that cannot be written only makes that run slower.

        Not those of weights that say with whom they were taught: that may be as long as a manifest.
        """
        if facts.classifier is not None and facts.classifier.training_samples is not None:
            return
        path = self._path(origin)
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(_record(facts)))

    def _path(self, origin: Origin) -> Path | None:
        if origin.name.startswith("onnx:"):
            return None
        name, weights = split_name(origin.name)[0], origin.weights
        identity = weights if weights and weights.startswith("random:") else \
            _file_identity(find_weights(name, weights=weights, folder=origin.folder))
        text = json.dumps([origin.name, identity, origin.classes, _code(),
                           [importlib.metadata.version(library) for library in LIBRARIES]])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where we may keep what can be had again: TWOFOLD_CACHE, or `twofold` in the user's cache folder."""
    if environment.get("TWOFOLD_CACHE"):
        return Path(environment["TWOFOLD_CACHE"])
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twofold"


def _file_identity(path: Path) -> list[str | int]:
    """A file with other bytes has another identity: its change time cannot be set back. So has one of another name,
    a link to the same bytes: its name may say in which order its classes are."""
    status = path.stat()
    return [str(path.absolute()), str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _code() -> str:
    """The digest of the source code that decides what an encoder is."""
    here = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted([*here.rglob("*.py"), *(here.parent / "weights").rglob("*.py")]):
        total.update(path.read_bytes())
    return total.hexdigest()


def _record(facts: EncoderFacts) -> dict[str, Any]:
    classifier = facts.classifier and {"classes": facts.classifier.classes, "weight": facts.classifier.weight.tolist(),
                                       "bias": facts.classifier.bias.tolist()}
    return {"name": facts.name, "architecture": facts.architecture, "weights": facts.weights, "tap": facts.tap,
            "dim": facts.dim, "preprocessing": asdict(facts.preprocessing), "classifier": classifier,
            "unnamed_classes": facts.unnamed_classes}


def _from_record(record: dict[str, Any], precision: str) -> EncoderFacts:
    how, layer = record.pop("preprocessing"), record.pop("classifier")
    classifier = layer and BackboneClassifier(tuple(layer["classes"]), np.array(layer["weight"], np.float32),
                                         np.array(layer["bias"], np.float32))
    preprocessing = Preprocessing(**how | {"mean": tuple(how["mean"]), "std": tuple(how["std"])})
    return EncoderFacts(**record, preprocessing=preprocessing, precision=precision, classifier=classifier or None)
