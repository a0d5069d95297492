"""What to extract: streams, each one encoder and one view, and the encoders, loaded when they are needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.cache.recipe import DTYPES
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import class_order
from twofold.extract.views import view
from twofold.extract.weights.find import fold_paths

if TYPE_CHECKING:
    from twofold.extract.encoders.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """Where an encoder comes from: the arguments of `load_encoder` but for the device."""

    backbone: str
    weights: str | None = None
    precision: str = "auto"
    batch_size: int = 0
    compiled: bool = False
    classes: tuple[str, ...] = ()

    def with_precision(self, precision: str) -> "EncoderSource":
        """Return the same source in this precision on any device; ONNX models keep their own."""
        return self if self.backbone.startswith("onnx:") else replace(self, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The features of one encoder and one view, and the dtype that they are stored in."""

    source: EncoderSource
    view: str = "original"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        view(self.view)  # raises InputError for an unknown name
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype {self.dtype!r}: choose from {', '.join(DTYPES)}")


def parse_streams(backbones: Sequence[str], views: Sequence[str] = ("original",), *, weights: Sequence[str] = (),
                  classes_of: Sequence[str] = (), precision: str = "auto", dtype: str = "float16", batch_size: int = 0,
                  compiled: bool = False) -> list[Stream]:
    """Return every backbone with all its weights and every view, each once, in order.

    weights: NAME=PATH, NAME=random:SEED or NAME=hub; a name may have several, as encoders that were fine-tuned one per
    fold; classes_of: NAME=ORDER, as `class_order` takes it. Raises InputError for anything else.
    """
    if not backbones or not views:
        raise InputError("no backbone is named: give --backbones NAME[,NAME...]" if not backbones else
                         "no view is named: give --views NAME[,NAME...]")
    files = parse_weights(weights, backbones)
    orders = _by_backbone(classes_of, backbones, what="classes", form="NAME=ORDER, as posterv2=rafdb")
    classes = {name: class_order(texts[-1]) for name, texts in orders.items()}
    sources = [EncoderSource(backbone=name, weights=file, precision=precision, batch_size=batch_size,
                             compiled=compiled, classes=classes.get(name, ()))
               for name in dict.fromkeys(backbones)
               for file in (dict.fromkeys(files[name]) if name in files else [None])]
    return [Stream(source=source, view=name, dtype=dtype) for source in sources for name in dict.fromkeys(views)]


def parse_weights(texts: Sequence[str], backbones: Sequence[str]) -> dict[str, list[str]]:
    """Map each name of NAME=VALUE texts to its values; the --out of `finetune --folds` stands for every fold's file.

    Raises InputError for a name that is not among the backbones, and for missing folds.
    """
    def files_of(weights: str) -> list[str]:
        path = Path(weights)
        folds = [] if path.suffix != ".safetensors" or path.is_file() else fold_paths(path)
        return list(map(str, folds)) or [weights]

    values = _by_backbone(texts, backbones, what="weights", form="NAME=PATH, NAME=random:SEED or NAME=hub")
    return {name: [file for text in named for file in files_of(text)] for name, named in values.items()}


def _by_backbone(texts: Sequence[str], backbones: Sequence[str], *, what: str, form: str) -> dict[str, list[str]]:
    """Map NAME=VALUE texts, where a name may have options, and equals signs, behind it."""
    values: dict[str, list[str]] = {}
    for text in texts:
        name = max((name for name in backbones if text.startswith(f"{name}=")), key=len, default="")
        value = text[len(name) + 1:]
        if not name and all(text.partition("=")):
            raise InputError(f"{what} are given for {text.partition('=')[0]!r}, which is not among the backbones "
                             f"{', '.join(backbones)}")
        if not name or not value:
            raise InputError(f"{what} {text!r} is not {form}")
        values.setdefault(name, []).append(value)
    return values


class Encoders:
    """The encoders of one device, each loaded once."""

    def __init__(self, device: str, loaded: "Mapping[EncoderSource, Encoder] | None" = None):
        self.device = device
        self._loaded = dict(loaded or {})

    def load(self, source: EncoderSource) -> "Encoder":
        """Load an encoder. Raises InputError for a name, device, precision or weights that are not available."""
        if source not in self._loaded:
            from twofold.extract.encoders.registry import load_encoder  # imports torch, which parsing does not need

            self._loaded[source] = load_encoder(
                source.backbone, weights=source.weights, device=self.device, precision=source.precision,
                batch_size=source.batch_size, compiled=source.compiled, classes=source.classes)
        return self._loaded[source]

    def drop(self, source: EncoderSource) -> None:
        """Free an encoder that is not the one searched for."""
        self._loaded.pop(source, None)
