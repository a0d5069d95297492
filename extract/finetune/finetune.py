"""The verb `finetune`: train a backbone on labelled samples and write a weights file that `extract` takes."""

import csv
import hashlib
import io
import itertools
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from twofold.cache.classifier import TrainingSamples, group_digest
from twofold.data.images.sources import ImageRoots, check_roots, hash_images, open_images, parse_roots
from twofold.data.manifest import SOFT, Manifest, read_manifest
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.machine import USUAL_MEMORY, free_memory
from twofold.data.utils.outputs import Output, OutputKind, read_header
from twofold.extract.encoders.classifier import finetuned_entries, finetuned_metadata
from twofold.extract.encoders.devices import parse_device, resolve_precision
from twofold.extract.finetune.data import Images, Splits, check_targets, make_splits
from twofold.extract.finetune.estimate import Estimate, estimate
from twofold.extract.finetune.loop import Epoch, Processes, Progress, Training, processes, set_allocator
from twofold.extract.finetune.lora import merge_adapters
from twofold.extract.finetune.model import InitialModel, has_depthwise_convolutions, initial_model
from twofold.extract.finetune.settings import DEFAULT_CLASSES, Settings, record_of
from twofold.extract.finetune.targets import Loss, sampling_weights
from twofold.extract.weights.find import fold_path, weights_folder
from twofold.extract.weights.read import read_checkpoint, safetensors_metadata

MEMORY_FRACTION = 0.5  #: of what is free, for decoded images
MARK = "twofold finetune"
WEIGHTS = OutputKind("a file of `finetune`", lambda path: safetensors_metadata(path).get("made_by") == MARK,
                     repeatable=True)
HISTORY = OutputKind("a history of `finetune`",
                     lambda path: read_header(path)[:4] == ["epoch", "loss", "rate", "val_loss"])
TENSORBOARD_SUFFIX = ".twofold-finetune"  #: ends the names of TensorBoard's files of ours


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is trained on what. weights: as `extract` takes them; out: the weights file; minutes: between states; fold:
    of `settings.folds` the only one to train now, counted from 1, or 0 for all of them in turn."""

    manifest: Path
    roots: Sequence[str]
    backbone: str
    weights: str | None
    out: Path
    settings: Settings
    device: str = "auto"
    memory_gb: float = 0.0
    minutes: float = 5.0
    tensorboard: Path | None = None
    progress: bool = True
    overwrite: bool = False  #: weights of another fine-tuning at the same place
    fold: int = 0
    follow_links: bool = False  #: read images that are links out of their root
    dry: bool = False  #: only say what it needs, with folds the first of them

    @property
    def output(self) -> Output:
        """The weights file; one of the same training stays."""
        return Output(self.out, WEIGHTS, self.overwrite,
                      [self.manifest, *([Path(self.weights)] if self.weights else [])])

    @property
    def history(self) -> Output:
        """The table of epochs beside the weights file, replaced with it."""
        return Output(self.out.with_suffix(".history.csv"), HISTORY, overwrite=True)

    def of_fold(self, fold: int) -> "Request":
        """The request of one fold, from 0 on: a file of its own, and as initial weights the file that is named or else
        the same fold's of it."""
        folds, weights = self.settings.folds, self.weights
        if weights and not Path(weights).is_file() and fold_path(Path(weights), fold, folds).is_file():
            weights = str(fold_path(Path(weights), fold, folds))
        return replace(self, out=fold_path(self.out, fold, folds), weights=weights)


# -------------------------------------------------------------------------------------------------------- report
@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """The end of one training. first: of several processes, only it has something to say."""

    request: Request
    initial_weights: str
    splits: Splits
    progress: Progress
    precision: str
    seconds: float
    failures: int  #: image files that cannot be read
    first: bool = True

    @property
    def exit_code(self) -> int:
        if self.progress.stopped_by:
            return 128 + self.progress.stopped_by
        return 1 if self.progress.diverged >= 0 or self.failures else 0

    def record(self) -> dict[str, Any]:
        progress, splits, request = self.progress, self.splits, self.request
        return {"out": str(request.out), "backbone": request.backbone, "started_from": self.initial_weights,
                "settings": record_of(request.settings), "precision": self.precision,
                "samples": {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
                "best_epoch": progress.best_epoch, "history": list(map(vars, progress.history)),
                "stopped_by": progress.stopped_by, "diverged": progress.diverged, "failures": self.failures,
                "notes": splits.notes, "seconds": self.seconds}

    def text(self) -> str:
        if not self.first:
            return ""
        progress, request, epochs = self.progress, self.request, self.request.settings.epochs
        where = f"epoch {progress.epoch + 1} of {epochs}"
        diverged = f"in {where} the loss was not finite any more: lower --lr, or use --clip 1"
        lines = []
        if progress.stopped_by:
            lines += [f"stopped by {signal.Signals(progress.stopped_by).name} in {where}; the same command goes on"]
        elif not progress.best:
            lines += [f"{diverged}; nothing was written"]
        else:
            best = progress.history[progress.best_epoch]
            scores = "; ".join(f"{target} {', '.join(itertools.starmap(_score_text, values.items()))}"
                               for target, values in best.scores.items())
            usage = "" if request.settings.folds else f"; use it with {_usage(request)}"
            lines += [f"{diverged}; what follows is of the last good epoch"] if progress.diverged >= 0 else []
            lines += [f"{request.backbone} ({self.precision}) from {self.initial_weights[:19]}: "
                      f"{len(self.splits.train)} training and {len(self.splits.val)} validation samples, epoch "
                      f"{best.epoch + 1} of {epochs} chosen, in {timedelta(seconds=round(self.seconds))}",
                      f"on validation: {scores}", f"wrote {request.out}{usage}"]
        untrained = ["it started from random weights"] if self.initial_weights.startswith("random:") else []
        return "\n".join([*lines, *(f"note: {note}" for note in (*untrained, *self.splits.notes))])


@dataclass(frozen=True)
class FoldsReport:
    """One encoder a fold, by its number from 1 on, up to the one that was stopped. request: what names all of them."""

    folds: dict[int, FinetuneReport]
    request: Request

    @property
    def exit_code(self) -> int:
        return max(report.exit_code for report in self.folds.values())

    def record(self) -> dict[str, Any]:
        return {"folds": [report.record() for report in self.folds.values()]}

    def text(self) -> str:
        folds, reports = self.request.settings.folds, list(self.folds.values())
        texts = [f"fold {number} of {folds}: {report.text()}" for number, report in self.folds.items()]
        if reports[-1].first and sum(report.progress.has_weights for report in reports) == folds:
            texts.append(f"use all of them with {_usage(self.request)}")
        return "\n\n".join(texts)


def _score_text(name: str, value: float) -> str:
    """A score in words, a share in percent."""
    figure = f"{100 * value:.2f}" if name in ("macro_f1", "accuracy", "intersection", "mean_ap") else f"{value:.3f}"
    return f"{name.replace('macro_f1', 'macro-F1').replace('mean_ap', 'mean AP')} {figure}"


def _usage(request: Request) -> str:
    return f"`extract --backbones {request.backbone} --weights {request.backbone}={request.out}`"


# ---------------------------------------------------------------------------------------------------------- verb
def finetune(request: Request) -> FinetuneReport | FoldsReport | Estimate:
    """Train as `request` says and write the weights of the best epoch; the same command goes on after a stop.

    With `settings.folds` it is one encoder a fold, each in a file of its own. Raises InputError for what a person must
    mend, before anything is written.
    """
    folds = request.settings.folds
    if not 0 <= request.fold <= folds:
        raise InputError(f"fold {request.fold} of {folds}: --fold counts from 1 to --folds")
    numbers = [request.fold - 1] if request.fold else range(folds)
    requests = {fold: request.of_fold(fold) for fold in numbers} if folds else {-1: request}
    for each in requests.values():
        if each.out.suffix != ".safetensors":
            raise InputError(f"{each.out}: weights are written as safetensors, so give --out that suffix")
        each.output.check()
        each.history.check()
    manifest = read_manifest(request.manifest)
    roots = open_images(parse_roots(request.roots), follow_links=request.follow_links)
    with processes(parse_device(request.device)) as (own, device):
        if device.type == "cpu":
            set_allocator(keep_freed=not request.settings.checkpointing)
        reports: dict[int, FinetuneReport] = {}
        for fold, each in requests.items():
            report = _finetune(each, manifest, roots, fold, own, device)
            if isinstance(report, Estimate):
                return report
            reports[fold + 1] = report
            if report.progress.stopped_by:
                break
    return FoldsReport(reports, request) if folds else reports[0]


def _finetune(request: Request, manifest: Manifest, roots: ImageRoots, fold: int, own: Processes,
              device: torch.device) -> FinetuneReport | Estimate:
    began, settings = time.perf_counter(), request.settings
    splits = make_splits(manifest, settings, fold=fold)
    check_targets(splits)  # before an image is read; again once it is known which can be
    keys = manifest.keys
    check_roots(roots, [keys[row] for row in splits.train])
    outputs = {target: each.outputs for target, each in splits.targets.items()}
    initial = initial_model(request.backbone, weights=request.weights, folder=weights_folder(), settings=settings,
                            widths={target: len(names) for target, names in outputs.items()})
    auto = settings.precision == "auto" and device.type == "cpu" and has_depthwise_convolutions(initial.model)
    precision = "fp32" if auto else resolve_precision(settings.precision, device)  # theirs are slower in bf16 on a CPU
    if request.dry:
        return estimate(initial, settings, splits, backbone=request.backbone, precision=precision)
    images = _read_images(request, manifest, roots, initial, splits)
    samples = _training_samples(request, manifest, images, initial, splits, fold)
    own_classes = {target: names for target, names in outputs.items() if target not in DEFAULT_CLASSES}
    name = _digest({"settings": record_of(settings), "start": initial.weights,
                    "faces": splits.digest(images.keys, images.sha256), "taught": samples.digest(),
                    **({"own": own_classes} if own_classes else {})})
    finished = _read_finished(request, name)
    if finished:
        progress = finished
    else:
        for target in splits.targets.values():
            target.balance(splits.train, settings.class_weights)
        training = Training(
            name=name, model=initial.model, images=images, splits=splits, loss=Loss([*splits.targets.values()]),
            sampling_weights=sampling_weights(splits.targets, splits.train, settings.balanced_sampling),
            settings=settings,
            precision=precision, device=device, processes=own, state=request.out.with_suffix(".state"),
            minutes=request.minutes, overwrite=request.overwrite)
        progress = training.run(shown=request.progress)
        if own.first and progress.history:
            _write_history(request, progress.history)
        if own.first and progress.has_weights:
            _write_weights(request, initial, progress, samples, outputs, name)
            training.state.unlink(missing_ok=True)
    return FinetuneReport(request=request, initial_weights=initial.weights, splits=splits, progress=progress,
                          precision=progress.precision, seconds=time.perf_counter() - began,
                          failures=len(images.failures), first=own.first)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_images(request: Request, manifest: Manifest, roots: ImageRoots, initial: InitialModel, splits: Splits
                 ) -> Images:
    """The images of train and validation; what cannot be read, or is an image of test, leaves the splits.

    Raises InputError where too few are left, and with folds for initial weights that were trained on samples of test:
    none would be left to score the encoder.
    """
    keys, memory = manifest.keys, request.memory_gb * 1e9 or MEMORY_FRACTION * (free_memory() or USUAL_MEMORY)
    images = Images(keys, np.union1d(splits.train, splits.val), roots, initial.architecture.preprocessing,
                    memory=memory, progress=request.progress)
    unread = next((f"{keys[row]}: {reason}" for row, reason in images.failures.items()), "")
    splits.drop(np.array(list(images.failures), int), f"their image files cannot be read ({unread})")
    test = hash_images(roots, [keys[row] for row in splits.test])
    if missing := len(splits.test) - len(test):
        splits.notes.append(f"{missing} test samples cannot be read: whether training samples have the same image "
                            "files is not known")
    rows = [row for row in splits.test if keys[row] in test]
    if initial.training_samples is not None and rows:
        groups = manifest.table["group"].to_numpy(object)[rows]
        count = int(initial.training_samples.contains([test[keys[row]] for row in rows], groups).sum())
        if count and request.settings.folds:
            raise InputError(f"--weights {request.weights} was trained on {count} of the {len(rows)} samples that "
                             f"{request.out.name} is to be scored by (the same bytes or group): start each fold from "
                             "an encoder that was not, such as the same fold's of an earlier `finetune --folds`")
        if count:
            splits.notes.append(f"the initial weights were trained on {count} of {len(rows)} test samples: these "
                                "cannot score it")
    digests = set(test.values())
    splits.drop(np.array([row for row, digest in images.sha256.items() if digest in digests], int),
                "their image files are those of test samples")
    validation = {images.sha256[row] for row in splits.val}
    splits.drop(np.array([row for row in splits.train if images.sha256[row] in validation], int),
                "their image files are those of validation samples", validation=False)
    try:
        splits.notes += check_targets(splits)
    except InputError as error:
        if not unread:
            raise
        raise InputError(f"{len(images.failures)} of {len(images.sha256) + len(images.failures)} "
                         f"image files cannot be read ({unread}), and without them: {error}") from None
    return images


def _training_samples(request: Request, manifest: Manifest, images: Images, initial: InitialModel, splits: Splits,
                      fold: int) -> TrainingSamples:
    """The training and validation samples, as their image files' SHA-256 and the digests of their groups, each once.

    Those of the fine-tuning that the initial weights come from count for this one, too. training_id: the same for all
    encoders of one set of folds, and for no other; empty where there are none.
    """
    settings, before, rows = request.settings, initial.training_samples, np.union1d(splits.train, splits.val)
    sha256 = {bytes.fromhex(images.sha256[row]) for row in rows}
    groups = {group_digest(name) for name in manifest.table["group"].to_numpy(object)[rows] if name}
    if before is not None:
        sha256 |= {row.tobytes() for row in before.sha256}
        groups |= {row.tobytes() for row in before.groups}
    arrays = [np.frombuffer(b"".join(sorted(each)), np.uint8).reshape(len(each), width).copy()
              for each, width in ((sha256, 32), (groups, 16))]
    training_id = ""
    if settings.folds:
        source = before.training_id if before and before.folds == settings.folds else initial.weights
        columns = ["key", "split", "basic", "compound", "group"]
        columns += [name for name in map(str, manifest.table) if name.startswith(SOFT)]
        table = manifest.table[columns].to_csv(index=False)
        training_id = _digest([record_of(settings), request.backbone, source, table])
    return TrainingSamples(*arrays, fold=fold, folds=settings.folds, training_id=training_id)


# --------------------------------------------------------------------------------------------------------- files
def _read_finished(request: Request, training: str) -> Progress | None:
    """The end of this very training, if its weights file is there; None if there is none, or one to be replaced.

    Raises InputError if the file is not of this training and may not be replaced.
    """
    path = request.out
    if not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint.metadata.get("training") != training:
        if request.overwrite:
            return None
        raise InputError(f"{path} exists and is of another training: --overwrite replaces it, or choose another --out")
    history = [Epoch(**record) for record in json.loads(checkpoint.metadata["history"])]
    best = max(range(len(history)), key=lambda place: (history[place].score, -place))
    return Progress(epoch=len(history), history=history, best_epoch=best, best=checkpoint.tensors,
                    diverged=int(checkpoint.metadata["diverged"]), precision=checkpoint.metadata["precision"])


def _write_weights(request: Request, initial: InitialModel, progress: Progress, samples: TrainingSamples,
                   outputs: Mapping[str, Sequence[str]], training: str) -> None:
    """Write the best epoch's weights whole or not at all: the encoder's entries under its architecture's own names, the
    linear classifiers and the digests of the training samples under names of ours; metadata: DESIGN.md, section 3."""
    initial.model.load_state_dict(initial.model.state_dict() | progress.best)
    merge_adapters(initial.model.encoder)
    tensors = {name: getattr(module, entry).detach() for name, (module, entry) in initial.entries.items()}
    tensors |= finetuned_entries(initial.model.heads, samples)
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL")
                if name in sys.modules}
    metadata = {
        "made_by": MARK, "backbone": request.backbone, "architecture": initial.architecture.name,
        "started_from": initial.weights,
        **finetuned_metadata(initial.architecture.preprocessing, outputs, samples),
        "settings": json.dumps(record_of(request.settings), sort_keys=True),
        "validation": json.dumps(progress.history[progress.best_epoch].row(), sort_keys=True),
        "history": json.dumps(list(map(vars, progress.history))), "precision": progress.precision,
        "software": json.dumps({"python": sys.version.split()[0], **versions}, sort_keys=True),
        "training": training, "diverged": str(progress.diverged),
    }
    with request.output.writing() as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask says; safetensors writes files that only their owner can read
        try:
            save_file({name: tensor.cpu().contiguous().numpy() for name, tensor in tensors.items()}, temporary,
                      metadata=metadata)
        except SafetensorError as error:
            raise InputError(f"{request.out}: cannot be written: {first_line(error, most=120)}") from None
        temporary.chmod(mode)


def _write_history(request: Request, epochs: Sequence[Epoch]) -> None:
    """A row an epoch, beside the weights and, where asked for, for TensorBoard, in place of an earlier one of ours.

    Raises InputError with the line that installs TensorBoard.
    """
    rows, text = [epoch.row() for epoch in epochs], io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    request.history.write_text(text.getvalue())
    if request.tensorboard is None:
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    for old in request.tensorboard.glob(f"events.out.tfevents.*{TENSORBOARD_SUFFIX}"):
        old.unlink()
    with SummaryWriter(str(request.tensorboard), filename_suffix=TENSORBOARD_SUFFIX) as board:
        for row in rows:
            for name, value in row.items():
                if name != "epoch":
                    board.add_scalar(name, value, int(row["epoch"]))
