"""What a person can set about a fine-tuning; the authors' own settings stand as presets beside ours."""

import re
from dataclasses import dataclass
from typing import Any

from twofold.data.labels import TASKS, Taxonomy, load_taxonomy
from twofold.data.utils import options
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import check, option

# the panels of `finetune --help`
LEARNS = "What it learns"
STEPS = "Steps"
LOSS = "Loss and regularisation"
IMAGES = "Augmentation"
SPLITS = "Validation and folds"

RAND_AUGMENT = re.compile(r"rand(-(m|n|mmax)[0-9]{1,2}|-(mstd|p)[0-9]{1,3}(\.[0-9]+)?|-inc[01]|-w0)*")
CLASS_TASKS: dict[str, str] = dict.fromkeys(TASKS[:2], "classes")  #: both are tasks of a classifier
DEFAULT_CLASSES = {"basic": "basic7", "compound": "cexpr7"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides which weights come out, besides the samples and the initial weights."""

    target: str = option("basic", LEARNS, "The labels it learns: basic, compound, both, or a column of your own; where "
                                          "--classes stands alone, those that it is of.")
    classes: str = option("", LEARNS, "A taxonomy or FILE.toml, or two with a comma between for both; empty: basic7, "
                                      "cexpr7.")
    task: tuple[str, ...] = option((), LEARNS, "Classification (hard labels) or distribution (soft ones, too), "
                                               "multilabel, regression, or several with commas; empty: distribution "
                                               "where the manifest has columns p_<class> of all classes.")
    task_weights: tuple[str, ...] = option((), LEARNS, "Of the losses of several tasks, in their order; empty: 1 each.")
    labels: tuple[str, ...] = option((), LEARNS, "Columns of multilabel (with regression: those named au_*) and of "
                                                 "regression; empty: au_*; valence and arousal.")
    teach: str = option("soft", LEARNS, "Which label teaches where a sample has both.", choices=("soft", "hard"))
    size: int = option(0, LEARNS, "Side of the input in pixels, the whole image in it; 0: the network's own.", least=0,
                       most=1024)
    train: str = option("all", LEARNS, "What is trained: all, last:N (its last N layers), head, or lora:RANK "
                                        "(low-rank changes of the linear layers of a transformer).")
    checkpointing: bool = option(False, LEARNS, "Compute activations anew, backward: less memory, more time.")
    frozen_norms: bool = option(False, LEARNS, "Batch norms keep the statistics they came with.")
    epochs: int = option(12, STEPS, "Passes over the training samples.", least=1)
    batch_size: int = option(64, STEPS, "Samples a step, of all processes together.", least=2)
    accumulate: int = option(1, STEPS, "Parts that a step is computed in, for memory.", least=1)
    optimizer: str = option("adamw", STEPS, "How steps are taken.", choices=("adamw", "adam"))
    lr: float = option(5e-4, STEPS, "Learning rate.", above=0)
    lr_batch: int = option(0, STEPS, "Batch size that the rate is meant for, and scaled to; 0: any.", least=0)
    min_lr: float = option(0.0, STEPS, "Where cosine and plateau end.", least=0)
    schedule: str = option("cosine", STEPS, "After warm-up.", choices=("constant", "cosine", "step", "plateau"))
    warmup: float = option(1.0, STEPS, "Epochs of linear warm-up.", least=0)
    lr_factor: float = option(0.1, STEPS, "Of step and plateau.", above=0, below=1)
    step_epochs: int = option(15, STEPS, "Epochs between the steps of the rate.", least=1)
    patience: int = option(5, STEPS, "Epochs without a better validation score that plateau waits for.", least=1)
    layer_decay: float = option(1.0, STEPS, "Rate of a layer over that of the layer after it.", above=0)
    weight_decay: float = option(0.05, STEPS, "Decoupled with adamw; none for biases and norms.", least=0)
    clip: float = option(0.0, STEPS, "Largest norm of the gradient; 0: any.", least=0)
    drop_path: float = option(0.0, LOSS, "Stochastic depth, for networks that have it.", least=0, below=1)
    dropout: float = option(0.0, LOSS, "Before the classifiers.", least=0, below=1)
    label_smoothing: float = option(0.1, LOSS, "Probability spread over all classes, of hard labels.", least=0, below=1)
    class_weights: float = option(0.0, LOSS, "Power of inverse frequency in the loss.", least=0)
    balanced_sampling: float = option(0.0, LOSS, "The same for drawing samples.", least=0)
    basic_weight: float = option(1.0, LOSS, "Weight of the basic loss where both are learned.", least=0)
    flip: float = option(0.5, IMAGES, "Probability of the mirror image.", least=0)
    shift: float = option(0.1, IMAGES, "Largest shift, of the side.", least=0)
    rotate: float = option(10.0, IMAGES, "Largest rotation, in degrees.", least=0)
    crop: float = option(0.8, IMAGES, "Least share of the area that a random crop keeps; 1: no crop.", above=0)
    jitter: float = option(0.2, IMAGES, "Largest relative change of brightness and contrast.", least=0, below=1)
    rand_augment: str = option("", IMAGES, "timm's RandAugment, as rand-m9-mstd0.5-inc1; empty: none.")
    erasing: float = option(0.0, IMAGES, "Probability of random erasing.", least=0)
    mixup: float = option(0.0, IMAGES, "Alpha of mixup; 0: none.", least=0)
    cutmix: float = option(0.0, IMAGES, "Alpha of CutMix; 0: none.", least=0)
    ema: float = option(0.0, LOSS, "Decay a step of the average of the weights; 0: none.", least=0, below=1)
    seed: int = option(0, STEPS, "Of everything drawn.", least=0, most=2**32 - 1)
    folds: int = option(0, SPLITS, "One encoder a fold, the folds being those of `fuse --folds`; 0: by the splits.",
                        least=0)
    fold_classes: str = option("cexpr7", SPLITS, "The taxonomy whose samples are dealt into folds: that of `fuse`.")
    val_fraction: float = option(0.15, SPLITS, "Of train, where there is no validation.", above=0, below=1)
    precision: str = option("auto", STEPS, "Arithmetic of the forward pass.", choices=("auto", "fp32", "bf16", "fp16"))

    def __post_init__(self) -> None:
        check(self)
        if self.folds == 1:
            raise InputError("folds 1: take 2 or more, or 0 for the manifest's splits")
        if not re.fullmatch(r"all|head|(last|lora):0*[1-9][0-9]{0,5}", self.train):
            raise InputError(f"train {self.train!r}: choose all, head, or last:N or lora:RANK with a number from 1")
        if self.rand_augment and not RAND_AUGMENT.fullmatch(self.rand_augment):
            raise InputError(f"rand-augment {self.rand_augment!r}: timm takes rand and sections with - between, as "
                             "rand-m9-mstd0.5-inc1")
        if unknown := [name for name in self.task if name not in TASKS]:
            raise InputError(f"task {unknown[0]!r}: choose from {', '.join(TASKS)}")
        if len(set(self.task)) < len(self.task) or {*CLASS_TASKS} <= {*self.task} or self.target in TASKS:
            raise InputError(f"task {','.join(self.task)} of target {self.target}: name each once, classification or "
                             "distribution, and no target like a task")
        if self.labels and not {"multilabel", "regression"} & {*self.task}:
            raise InputError("labels: they are of --task multilabel or regression")
        if self.task_weights and len(self.task_weights) != len(self.task):
            raise InputError(f"task-weights {','.join(self.task_weights)}: one for each of {len(self.task)} tasks is "
                             "needed")
        for text in self.task_weights:
            if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
                raise InputError(f"task-weights {text!r}: a number from 0 on is needed, as 0.5")
        if self.classes and not self.targets:
            raise InputError(f"classes {self.classes}: they go with --task classification or distribution")
        self.taxonomies  # noqa: B018 (raises for names that do not fit)

    def weight_of(self, task: str) -> float:
        """The weight of a task's loss."""
        weights = {CLASS_TASKS.get(name, name): float(weight)
                   for name, weight in zip(self.task, self.task_weights, strict=False)}
        return weights.get(CLASS_TASKS.get(task, task), 1.0)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of classes that are learned."""
        if self.task and not {*CLASS_TASKS} & {*self.task}:
            return ()
        return ("basic", "compound") if self.target == "both" else (self.target,)

    @property
    def taxonomies(self) -> dict[str, Taxonomy]:
        """The classes of each target. Raises InputError for names that are unknown or of another target."""
        if not self.targets:
            return {}
        chosen = {target: load_taxonomy(name) for target, name in DEFAULT_CLASSES.items() if target in self.targets}
        for named in _taxonomies(self.classes):
            if named.target not in self.targets:
                what = f"are {named.target} expressions" if named.target in DEFAULT_CLASSES else "stand in a column"
                raise InputError(f"classes {named.name!r} {what}: use --target {named.target}")
            chosen[named.target] = named
        if not chosen:
            raise InputError(f"target {self.target!r}: choose from basic, compound, both, or a column of your own with "
                             "the --classes FILE.toml that stand in it")
        return chosen


_MAE = {  # the authors' logs: fine-tuning of the masked autoencoder, both stages
    "optimizer": "adamw", "lr_batch": 256, "weight_decay": 0.05, "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0,
    "rand_augment": "rand-m9-mstd0.5-inc1", "label_smoothing": 0.1, "warmup": 5.0, "schedule": "cosine", "min_lr": 1e-6,
    "epochs": 100, "shift": 0.0, "rotate": 0.0, "crop": 1.0, "jitter": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"size": 128},  # see "What it turns on" in extract/README.md
    "unified": _MAE | {"target": "basic", "classes": "basic8", "lr": 5e-4, "layer_decay": 0.65, "drop_path": 0.1},
    "compound": _MAE | {"target": "compound", "classes": "cexpr7", "lr": 1e-3, "layer_decay": 0.75, "drop_path": 0.2,
                        "batch_size": 64},
    # arXiv 2407.12257, section 4: Adam, learning rate 5e-5, batch 128, 100 epochs, warm-up, cross-entropy
    "paper": {"target": "compound", "optimizer": "adam", "lr": 5e-5, "batch_size": 128, "epochs": 100, "warmup": 5.0,
              "schedule": "constant", "weight_decay": 0.0, "label_smoothing": 0.0, "shift": 0.0, "rotate": 0.0,
              "crop": 1.0, "jitter": 0.0},
}


def resolve(*, preset: str, chosen: dict[str, Any]) -> Settings:
    """Settings of a preset, over it those chosen (None: not chosen). Raises InputError."""
    stated = {name: value for name, value in chosen.items() if value is not None}
    if isinstance(classes := stated.get("classes"), str) and "target" not in PRESETS.get(preset, {}) | stated:
        targets = sorted({named.target for named in _taxonomies(classes)})
        stated["target"] = "both" if targets == ["basic", "compound"] else "".join(targets[:1]) or "basic"
    return options.resolve(Settings, PRESETS, preset=preset, changes=stated)


def record_of(settings: Settings) -> dict[str, Any]:
    """Settings as JSON holds them; classes of one's own by their name rather than the path of their file."""
    classes, folds = (",".join(each.name for each in _taxonomies(text))
                      for text in (settings.classes, settings.fold_classes))
    return options.settings_record(settings) | {"classes": classes, "fold_classes": folds}


def _taxonomies(names: str) -> list[Taxonomy]:
    return [load_taxonomy(name) for name in filter(None, names.split(","))]
