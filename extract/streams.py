"""What to extract, from the words of the command line: streams, each the features of one encoder and one view."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.cache.recipe import DTYPES
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import class_order
from twofold.extract.engine.task import EncoderSource
from twofold.extract.engine.views import view_record
from twofold.extract.weights.find import fold_paths


@dataclass(frozen=True)
class Stream:
    """The features of one encoder and one view, and the dtype that they are stored in."""

    source: EncoderSource
    view: str
    dtype: str


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
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    names = [view_record(name)["name"] for name in dict.fromkeys(views)]
    files = parse_weights(weights, backbones)
    orders = _by_backbone(classes_of, backbones, what="classes", form="NAME=ORDER, as posterv2=rafdb")
    classes = {name: class_order(texts[-1]) for name, texts in orders.items()}
    sources = [EncoderSource(backbone=name, weights=file, precision=precision, batch_size=batch_size,
                             compiled=compiled, classes=classes.get(name, ()))
               for name in dict.fromkeys(backbones)
               for file in (dict.fromkeys(files[name]) if name in files else [None])]
    return [Stream(source, name, dtype) for source in sources for name in names]


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
