"""What a person can set about a fusion, and the heads to choose from: options, TOML keys, checks and help follow."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.labels import TASKS
from twofold.data.utils import options
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import check, option, read_toml


@dataclass(frozen=True, kw_only=True)
class HeadType:
    """What a head needs and gives.

    body: module and class of its network; pretrained_body: of what stands there when the backbones bring their own
    classifiers of basic emotions along; without `body` they have to. learns_classes: False for one that learns from
    basic labels and only is scored by the classes. needs_basic: samples with a basic label alone train it, too.
    outputs_basic: it predicts basic expressions on the way. views: `streams` of their own, or `versions` of one stream,
    of which the first predicts. averages_views: it can take the mean of a backbone's views. averages_singles: it is
    made of one mlp per stream. seeded: its members differ by their seeds; else one member is all of it. inputs: what a
    sample may be, a `row` of numbers, a row of several `pieces`, or the `frames` of a clip. tasks: what it can learn.
    """

    body: str = ""
    pretrained_body: str = ""
    learns_classes: bool = True
    needs_basic: bool = False
    outputs_basic: bool = False
    views: str = "streams"
    averages_views: bool = False
    averages_singles: bool = False
    seeded: bool = True
    inputs: tuple[str, ...] = ("row", "pieces")
    tasks: tuple[str, ...] = ("classification", "distribution")


HEAD_TYPES = {
    "paper": HeadType(body="fusion:Paper", needs_basic=True, outputs_basic=True, views="versions"),
    "linear": HeadType(body="fusion:Linear", averages_views=True, tasks=TASKS),
    "mlp": HeadType(body="fusion:MLP", averages_views=True, tasks=TASKS),
    "tuned": HeadType(pretrained_body="zeroshot:Tuned", outputs_basic=True),
    "gated": HeadType(body="fusion:Gated", tasks=TASKS),
    "layers": HeadType(body="attention:Layers", inputs=("pieces",), tasks=TASKS),
    "attentive": HeadType(body="attention:Attentive", inputs=("pieces", "frames"), tasks=TASKS),
    "temporal": HeadType(body="attention:Temporal", inputs=("frames",), tasks=TASKS),
    "late": HeadType(body="fusion:Late", averages_singles=True),
    "logreg": HeadType(body="sklearn:LogisticRegression", averages_views=True, seeded=False, tasks=TASKS),
    "zeroshot": HeadType(body="zeroshot:ZeroShot", pretrained_body="zeroshot:PretrainedClassifiers",
                         learns_classes=False, outputs_basic=True, tasks=("classification",)),
}
SINGLE = "mlp"  #: the head on one stream that a head with `averages_singles` is made of

DEFAULT_POOL = ("mean", "std", "p10", "p25", "p50", "p75", "p90")  #: of BLEMORE's baselines, arXiv 2601.13225
STEPS = "steps"  #: before a number: the means of that many spans of a unit's time
STATISTIC = re.compile(rf"mean|std|slope|p(\d|[1-9]\d|100)|{STEPS}([2-9]|[1-5]\d|6[0-4])")  #: of a unit's frames
SEQUENCE = "sequence"  #: in the place of statistics: the frames themselves, in order
MOST_FRAMES = 256  #: of a sequence, unless a number follows
RULES = ("threshold", "weighted", "mean", "geometric", "harmonic")
VERY_MANY = 1_000_000  #: of what is counted: more is a slip of the finger, or a hostile file

# the panels of `fuse --help`
SAMPLES = "Samples and classes"
HEAD = "Head"
TRAINING = "Training"
IMBALANCE = "Rare classes"
REGULARISATION = "Regularisation"
PAPER = "The paper's head and zero-shot"
MACHINE = "Machine"

PENDING = ".new"  #: where new files of a run stand together before they are moved to their places; see runs/write.py

@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides the outcome of a fusion besides the features; every field is an option of `fuse`."""

    backbones: tuple[str, ...] = option((), SAMPLES, "NAME, NAME@FINGERPRINT or NAME@PIECE; none: all of the store.")
    views: tuple[str, ...] = option(("original",), SAMPLES, "Of original, flip, crop_left, crop_centre, crop_right, "
                                                       "enhanced1, enhanced2.")
    view_pooling: str = option("concat", SAMPLES, "Several views of a backbone: features side by side, or their mean.",
                               choices=("concat", "mean"))
    extra_views: tuple[str, ...] = option((), SAMPLES, "Views that are taken where the store has them.")
    target: str = option("", SAMPLES, "Column of labels: compound, basic or your own; empty: that of the classes.")
    classes: str = option("", SAMPLES, "One of `manifest classes`, FILE.toml of your own, or from-data: the labels as "
                                     "they stand; empty: cexpr7 or basic7.")
    task: tuple[str, ...] = option((), SAMPLES, "classification, distribution (soft labels), multilabel, regression, "
                                   "or several at once; empty: distribution where the labels are soft, else "
                                   "classification.")
    task_weights: tuple[str, ...] = option((), SAMPLES, "Of several tasks in the loss, a number each; empty: 1 each.")
    labels: tuple[str, ...] = option((), SAMPLES, "Columns of a multilabel task or regression; empty: au_*, or valence "
                                                  "and arousal.")
    teach: str = option("soft", SAMPLES, "What teaches a distribution where a sample has both, its soft or hard label.",
                        choices=("soft", "hard"))
    unit: str = option("", SAMPLES, "Column that names each row's clip, source or person: these are the samples then; "
                                    "empty: each row is one.")
    pool: tuple[str, ...] = option(DEFAULT_POOL, SAMPLES, "Of a unit's frames: mean, std, p<percent>, slope, and "
                                                          "steps<number>: means of so many spans of time; or "
                                                          "sequence: the frames in order, at most 256 (sequence<n>: "
                                                          "n), of more the means of as many spans.")
    folds: int = option(0, SAMPLES, "Cross-validation by group instead of the manifest's splits; 0: these.",
                        least=0, most=1000)
    val_fraction: float = option(0.15, SAMPLES, "Of train, carved out where there is no validation.", above=0, below=1)
    subsets: str = option("singles", SAMPLES, "What stands beside the fusion: each backbone alone, or all subsets.",
                          choices=("singles", "all"))
    table: str = option("plain", SAMPLES, "The table: plain, or as the paper's Tables 1 and 2.",
                        choices=("plain", "paper"))

    head: str = option("mlp", HEAD, "The model on the features.", choices=tuple(HEAD_TYPES))
    hidden: int = option(128, HEAD, "Width of the hidden layer.", least=1, most=VERY_MANY)
    late: str = option("weighted", HEAD, "Head late: how the singles are averaged.",
                       choices=("mean", "weighted", "per-class"))

    seeds: int = option(3, TRAINING, "How many; trained together, averaged in the answer.", least=1, most=1000)
    seed: int = option(0, TRAINING, "The first of the seeds; also splits and bootstraps.", least=0, most=2**32 - 1)
    epochs: int = option(20, TRAINING, "Passes over the training samples.", least=1, most=VERY_MANY)
    lr: float = option(2e-3, TRAINING, "Adam's learning rate.", above=0)
    batch_size: int = option(256, TRAINING, "Samples a step.", least=2, most=VERY_MANY)
    warmup: int = option(2, TRAINING, "Epochs of linear warm-up.", least=0)
    schedule: str = option("cosine", TRAINING, "The rate after warm-up; plateau: halved after 5 epochs without "
                           "a better validation score.", choices=("constant", "cosine", "plateau"))
    patience: int = option(0, TRAINING, "Epochs without a better validation score before the end; 0: never.",
                           least=0)
    ema: float = option(0.0, TRAINING, "Decay of the average of the weights, a step; 0: off.", least=0, below=1)

    class_weights: float = option(0.0, IMBALANCE, "Power of the inverse class frequency in the loss; 1: balanced.",
                                  least=0)
    balanced_sampling: float = option(0.5, IMBALANCE, "The same for how often a sample is drawn.", least=0)
    logit_adjustment: float = option(0.0, IMBALANCE, "Tau of Menon et al., arXiv 2007.07314; 0: off.", least=0)
    compound_mixup: float = option(0.25, IMBALANCE, "Share of a batch made by mixing two basics into a compound.",
                                   least=0, below=1)

    dropout: float = option(0.0, REGULARISATION, "Of hidden units.", least=0, below=1)
    weight_decay: float = option(0.0, REGULARISATION, "Decoupled, as AdamW.", least=0)
    label_smoothing: float = option(0.1, REGULARISATION, "Share of a label spread over all classes.", least=0, below=1)
    mixup: float = option(0.0, REGULARISATION, "Alpha of feature mixup, arXiv 1710.09412; 0: off.", least=0)
    stream_dropout: float = option(0.3, REGULARISATION, "Probability that a backbone is zeroed for a sample.",
                                   least=0, below=1)

    basic_weight: float = option(0.5, PAPER, "a of its loss L_ce + a L_basic + b L_CL.", least=0)
    contrastive_weight: float = option(0.1, PAPER, "b of its loss.", least=0)
    contrastive_temperature: float = option(0.1, PAPER, "Of L_CL.", least=1e-3)
    projection: int = option(128, PAPER, "Width of the vectors that L_CL compares.", least=1, most=VERY_MANY)
    rule: str = option("geometric", PAPER, "Head zeroshot: from the pair's probabilities to a compound's.",
                       choices=RULES)

    device: str = option("auto", MACHINE, "auto, cpu, cuda, cuda:N or mps.")
    precision: str = option("fp32", MACHINE, "Of the products.", choices=("auto", "fp32", "bf16"))
    memory_gb: float = option(0.0, MACHINE, "Features beyond it are streamed from disk; 0: half of what is free.",
                              least=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.pool or len(set(self.pool)) < len(self.pool) or not (
                most_frames(self.pool) or all(map(STATISTIC.fullmatch, self.pool))):
            raise InputError(f"pool {','.join(self.pool)}: choose from mean, std, slope, percentiles p0 to p100, and "
                             f"steps2 to steps64, each once; or {SEQUENCE} or {SEQUENCE}2 to {SEQUENCE}9999 alone")
        if self.folds == 1:
            raise InputError("folds 1: take 2 or more, or 0 for the manifest's splits")
        if unknown := [name for name in self.task if name not in TASKS]:
            raise InputError(f"task {unknown[0]!r}: choose from {', '.join(TASKS)}")


#: without what we found to help
PLAIN = {"patience": 0, "dropout": 0.0, "weight_decay": 0.0, "class_weights": 0.0, "balanced_sampling": 0.0,
         "logit_adjustment": 0.0, "label_smoothing": 0.0, "mixup": 0.0, "compound_mixup": 0.0, "stream_dropout": 0.0,
         "ema": 0.0}
PRESETS: dict[str, dict] = {
    "default": {},
    # arXiv 2407.12257, its Tables 1 and 2: ViT, POSTER++ and ResNet; Fig. 1: two heads on the original, two enhanced
    # versions for the contrastive loss; section 4: Adam, learning rate 5e-5, batch 128, 100 epochs, cross-entropy; its
    # warm-up is of the ViT's pretraining
    "paper": PLAIN | {"head": "paper", "backbones": ("vit_mae", "posterv2", "resnet50"), "views": ("original",),
                      "extra_views": ("enhanced1", "enhanced2"), "epochs": 100, "lr": 5e-5, "batch_size": 128,
                      "warmup": 0, "schedule": "constant", "hidden": 512},
    # what its authors' public code and logs show: 1024 + 768 + 512 = 2304 -> 1152 -> 7 on frozen encoders
    "authors": PLAIN | {"head": "mlp", "backbones": ("manet", "vit_mae", "resnet50_conv5"), "views": ("original",),
                        "epochs": 100, "lr": 5e-5, "batch_size": 128, "warmup": 0, "schedule": "plateau",
                        "hidden": 1152, "dropout": 0.1},
}


def pool_width(pool: Sequence[str]) -> int:
    """How many values of each feature these statistics are; 1 where there are none."""
    return sum(int(name.removeprefix(STEPS)) if name.startswith(STEPS) else 1 for name in pool) or 1


def most_frames(pool: Sequence[str]) -> int:
    """Of a sequence, how many frames are kept at most; 0 where statistics are taken of the frames."""
    number = re.fullmatch(SEQUENCE + r"([2-9]|[1-9]\d{1,3})?", pool[0]) if len(pool) == 1 else None
    return int(number[1] or MOST_FRAMES) if number else 0


def resolve(*, preset: str = "default", config: Path | None = None, changes: dict | None = None) -> Settings:
    """Settings from a preset, over it those of a file (TOML, or a run's run.json), over both the `changes` that are
    not None.

    Raises InputError for an unknown preset, an unreadable file, or a setting that does not exist or does not hold.
    """
    return options.resolve(Settings, PRESETS, preset=preset, config=read_config(config) if config else None,
                           changes=changes)


def settings_from(record: object) -> Settings:
    """Settings from a plain record. Raises InputError naming what is unknown or of the wrong kind."""
    return options.settings_from_record(Settings, record)


def run_file(folder: Path, name: str) -> Path:
    """The path of a run's file: in `.new` if a writer was stopped before it had moved all files."""
    pending = folder / PENDING / name
    return pending if pending.is_file() else folder / name


def read_config(path: Path) -> dict:
    """The settings in a TOML file or in a run.json, whose own classes are then those of that file. Raises InputError if
    it is neither."""
    if path.suffix != ".json":
        return read_toml(path, "settings")
    try:
        record = json.loads(run_file(path.parent, path.name).read_text(encoding="utf-8"))
        own = record["settings"].get("classes") and record.get("taxonomy", {}).get("source") == ""
        return dict(record["settings"]) | ({"classes": str(path)} if own else {})
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (a TOML of settings, or the run.json of a run)") from None
    except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not settings: {error}") from None
