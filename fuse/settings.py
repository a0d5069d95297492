"""What a person can set about a fusion, with defaults chosen by measurement, the paper's own beside them."""

import json
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from twofold.data.errors import InputError

HEADS = ("paper", "linear", "mlp", "gated", "late", "logreg", "zeroshot")
CHOICES = {
    "head": HEADS, "target": ("compound", "basic"), "schedule": ("constant", "cosine"),
    "late": ("mean", "weighted", "per-class"), "rule": ("threshold", "weighted", "mean", "geometric", "harmonic"),
    "precision": ("auto", "fp32", "bf16"), "subsets": ("singles", "all"), "table": ("plain", "paper"),
}
AT_LEAST = {"seeds": 1, "epochs": 1, "batch_size": 2, "hidden": 1, "projection": 1, "lr": 0.0, "weight_decay": 0.0,
            "class_weights": 0.0, "balanced_sampling": 0.0, "mixup": 0.0, "warmup": 0, "patience": 0,
            "basic_weight": 0.0, "contrastive_weight": 0.0, "contrastive_temperature": 1e-3, "memory_gb": 0.0,
            "seed": 0, "folds": 0, "logit_adjustment": 0.0}
SHARES = ("dropout", "label_smoothing", "compound_mixup", "stream_dropout", "ema", "val_fraction")  #: within [0, 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides the outcome of a fusion besides the features; every field is an option of `fuse`."""

    backbones: tuple[str, ...] = ()  #: names, or NAME@FINGERPRINT; none = all that the store has
    views: tuple[str, ...] = ("original",)
    target: str = "compound"
    classes: str = ""  #: a taxonomy; empty = cexpr7 or basic7, after the target
    head: str = "mlp"
    subsets: str = "singles"  #: what stands in the table beside the fusion: each backbone alone, or all subsets
    table: str = "plain"
    seeds: int = 3
    seed: int = 0  #: the first of the seeds; also splits and bootstraps
    folds: int = 0  #: 0 = the manifest's splits
    val_fraction: float = 0.15  #: of train, carved out where the manifest has no validation faces
    epochs: int = 20
    lr: float = 2e-3
    batch_size: int = 256
    hidden: int = 128
    dropout: float = 0.0
    weight_decay: float = 0.0
    warmup: int = 2  #: epochs of linear warm-up
    schedule: str = "cosine"
    patience: int = 0  #: epochs without a better validation macro-F1 before training ends; 0 = never
    class_weights: float = 0.0  #: power of the inverse class frequency in the loss; 0 = none, 1 = balanced
    balanced_sampling: float = 0.5  #: the same for how often a face is drawn
    logit_adjustment: float = 0.0  #: tau of Menon et al., arXiv 2007.07314
    label_smoothing: float = 0.1
    mixup: float = 0.0  #: alpha of the Beta distribution, arXiv 1710.09412, on features
    compound_mixup: float = 0.25  #: share of each batch made by mixing two basics into their compound
    stream_dropout: float = 0.3  #: probability that a backbone's features are zeroed for a face
    ema: float = 0.0  #: decay of the average of the weights, per step
    basic_weight: float = 0.5  #: a of the paper's loss
    contrastive_weight: float = 0.1  #: b of the paper's loss
    contrastive_temperature: float = 0.1
    projection: int = 128
    late: str = "weighted"
    rule: str = "geometric"
    device: str = "auto"
    precision: str = "fp32"
    memory_gb: float = 0.0  #: features beyond this are streamed from disk; 0 = half of what is free

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), f"choose from {', '.join(choices)}")
        for name, least in AT_LEAST.items():
            _require(getattr(self, name) >= least, name, getattr(self, name), f"it must be at least {least}")
        for name in SHARES:
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "it must be in [0, 1)")
        _require(self.folds != 1, "folds", 1, "take 2 or more, or 0 for the manifest's splits")
        _require(self.lr > 0 and self.val_fraction > 0, "lr or val_fraction", 0, "it must be above 0")

    @property
    def taxonomy_name(self) -> str:
        return self.classes or {"compound": "cexpr7", "basic": "basic7"}[self.target]


PRESETS: dict[str, dict] = {
    "default": {},
    # arXiv 2407.12257, section 4: Adam, learning rate 5e-5, batch 128, 100 epochs, warm-up, cross-entropy
    "paper": {"epochs": 100, "lr": 5e-5, "batch_size": 128, "warmup": 5, "schedule": "constant", "patience": 0,
              "hidden": 512, "dropout": 0.0, "weight_decay": 0.0, "class_weights": 0.0, "balanced_sampling": 0.0,
              "logit_adjustment": 0.0, "label_smoothing": 0.0, "mixup": 0.0, "compound_mixup": 0.0,
              "stream_dropout": 0.0, "ema": 0.0},
}


def resolve(*, preset: str = "default", config: Path | None = None, given: dict | None = None) -> Settings:
    """Settings from a preset, over it those of a file (TOML, or a run's run.json), over both those `given`.

    Raises InputError for an unknown preset, an unreadable file, or a setting that does not exist or does not hold.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    stated = {name: value for name, value in (given or {}).items() if value is not None}
    return settings_from(PRESETS[preset] | (read_config(config) if config else {}) | stated)


def settings_from(record: dict) -> Settings:
    """Settings from a plain record. Raises InputError naming what is unknown or of the wrong kind."""
    kinds = {field.name: type(getattr(_DEFAULT, field.name)) for field in fields(Settings)}
    checked = {}
    for name, value in record.items():
        if name not in kinds:
            raise InputError(f"unknown setting {name!r}: choose from {', '.join(kinds)}")
        checked[name] = _converted(name, value, kinds[name])
    return replace(_DEFAULT, **checked)


def read_config(path: Path) -> dict:
    """The settings in a TOML file or in a run.json. Raises InputError if it is neither."""
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)["settings"] if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (a TOML of settings, or the run.json of a run)") from None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{path}: not settings: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not settings: a table of names and values is needed")
    return record


def record_of(settings: Settings) -> dict:
    """Settings as JSON holds them; `settings_from` reads them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def _converted(name: str, value: object, kind: type) -> object:
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    needed = "a list of names" if kind is tuple else kind.__name__
    raise InputError(f"setting {name!r} is {value!r}: {needed} is needed")


def _require(holds: bool, name: str, value: object, advice: str) -> None:
    if not holds:
        raise InputError(f"{name.replace('_', '-')} {value!r}: {advice}")


_DEFAULT = Settings()
