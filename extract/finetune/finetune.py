"""The verb `finetune`: train a backbone on labelled samples and write it as a weights file."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from twofold.cache.classifier import TrainingSamples
from twofold.data.images.sources import ImageRoots, check_roots, hash_images, open_images, parse_roots
from twofold.data.manifest import Manifest, read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import USUAL_MEMORY, free_memory
from twofold.extract.encoders.devices import parse_device, resolve_precision
from twofold.extract.finetune.data import Images, Splits, check_classes, make_splits, read_images
from twofold.extract.finetune.loop import Processes, Training, keep_freed_memory, processes, train
from twofold.extract.finetune.model import InitialModel, initial_model
from twofold.extract.finetune.optimization import make_loss, sampling_weights
from twofold.extract.finetune.output import (
    FinetuneReport,
    FoldsReport,
    collect_training_samples,
    read_outcome,
    weights_output,
    write_weights,
)
from twofold.extract.finetune.progress import history_output, write_history, write_tensorboard
from twofold.extract.finetune.settings import DEFAULT_CLASSES, Settings, record_of
from twofold.extract.weights.find import fold_path, weights_folder

MEMORY_FRACTION = 0.5  #: of what is free, for decoded images


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

    @property
    def inputs(self) -> list[Path]:
        """The files that are read: the manifest, and the initial weights where they are a file."""
        return [self.manifest, *([Path(self.weights)] if self.weights else [])]

    def of_fold(self, fold: int) -> "Request":
        """The request of one fold, from 0 on: a file of its own, and as initial weights the file that is named or else
        the same fold's of it."""
        folds, weights = self.settings.folds, self.weights
        if weights and not Path(weights).is_file() and fold_path(Path(weights), fold, folds).is_file():
            weights = str(fold_path(Path(weights), fold, folds))
        return replace(self, out=fold_path(self.out, fold, folds), weights=weights)


def finetune(request: Request) -> FinetuneReport | FoldsReport:
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
        weights_output(each.out, overwrite=each.overwrite, inputs=each.inputs).check()
        history_output(each.out).check()
    manifest = read_manifest(request.manifest)
    roots = open_images(parse_roots(request.roots), follow_links=request.follow_links)
    with processes(parse_device(request.device)) as (own, device):
        if device.type == "cpu":
            keep_freed_memory()
        reports: dict[int, FinetuneReport] = {}
        for fold, each in requests.items():
            reports[fold + 1] = _finetune(each, manifest, roots, fold, own, device)
            if reports[fold + 1].outcome.stopped_by:
                break
    return FoldsReport(reports, request.out) if folds else reports[0]


def _finetune(request: Request, manifest: Manifest, roots: ImageRoots, fold: int, own: Processes,
              device: torch.device) -> FinetuneReport:
    began, settings = time.perf_counter(), request.settings
    splits = make_splits(manifest, settings, fold=fold)
    check_classes(splits, settings)  # before an image is read; again once it is known which can be
    check_roots(roots, [manifest.keys[row] for row in splits.train])
    initial = initial_model(request.backbone, weights=request.weights, folder=weights_folder(), settings=settings)
    images, splits = _read_images(request, manifest, roots, initial, splits)
    rows, groups = np.union1d(splits.train, splits.val), manifest.table["group"].to_numpy(object)
    samples = collect_training_samples(
        [images.sha256[row] for row in rows], groups[rows], before=initial.training_samples, fold=fold,
        folds=settings.folds, training=_fold_set(manifest, initial, settings))
    training = _training(request, initial, images, splits, samples, own, device)
    output = weights_output(request.out, overwrite=request.overwrite, inputs=request.inputs)
    done = read_outcome(output, training.name)
    outcome = done or train(training, progress=request.progress)
    if own.first and not done:
        if outcome.progress.history:
            write_history(history_output(output.path), outcome.progress.history)
            if request.tensorboard:
                write_tensorboard(request.tensorboard, outcome.progress.history)
        if outcome.has_weights:
            write_weights(output, initial, outcome, settings, samples, training.name)
            training.state.unlink(missing_ok=True)
    return FinetuneReport(out=request.out, name=initial.name, initial_weights=initial.weights, settings=settings,
                          splits=splits, outcome=outcome, precision=training.precision,
                          seconds=time.perf_counter() - began, failures=images.failures, first=own.first)


def _read_images(request: Request, manifest: Manifest, roots: ImageRoots, initial: InitialModel, splits: Splits
                 ) -> tuple[Images, Splits]:
    """The images of train and validation, and the splits less what cannot be read or is an image of test."""
    memory = request.memory_gb * 1e9 or MEMORY_FRACTION * (free_memory() or USUAL_MEMORY)
    images = read_images(manifest.keys, np.union1d(splits.train, splits.val), roots, initial.architecture.preprocessing,
                         memory=memory, progress=request.progress)
    unread = next((f"{manifest.keys[row]}: {reason}" for row, reason in images.failures.items()), "")
    splits = splits.without(np.array(list(images.failures), int), f"their image files cannot be read ({unread})")
    test = hash_images(roots, [manifest.keys[row] for row in splits.test])
    if missing := len(splits.test) - len(test):
        note = f"{missing} test samples cannot be read: whether training samples have the same image files is not known"
        splits = replace(splits, notes=(*splits.notes, note))
    splits = _check_initial_weights(request, manifest, initial, splits, test)
    digests = set(test.values())
    same = np.array([row for row, digest in images.sha256.items() if digest in digests], int)
    splits = splits.without(same, "their image files are those of test samples")
    validation = {images.sha256[row] for row in splits.val}
    twins = np.array([row for row in splits.train if images.sha256[row] in validation], int)
    if len(twins):
        note = f"{len(twins)} samples left out of train: their image files are those of validation samples"
        splits = replace(splits, train=np.setdiff1d(splits.train, twins), notes=(*splits.notes, note))
    try:
        return images, check_classes(splits, request.settings)
    except InputError as error:
        if not unread:
            raise
        raise InputError(f"{len(images.failures)} of {len(images.sha256) + len(images.failures)} "
                         f"image files cannot be read ({unread}), and without them: {error}") from None


def _check_initial_weights(request: Request, manifest: Manifest, initial: InitialModel, splits: Splits,
                           test: Mapping[str, str]) -> Splits:
    """The splits, with a note where the initial weights were trained on test samples. test: of these, by key, the
    SHA-256 of the image file. Raises InputError for that with folds: none would be left to score the encoder."""
    rows = [row for row in splits.test if manifest.keys[row] in test]
    if initial.training_samples is None or not rows:
        return splits
    groups = manifest.table["group"].to_numpy(object)[rows]
    count = int(initial.training_samples.contains([test[manifest.keys[row]] for row in rows], groups).sum())
    if count and request.settings.folds:
        raise InputError(f"--weights {request.weights} was trained on {count} of the {len(rows)} samples that "
                         f"{request.out.name} is to be scored by (the same bytes or group): start each fold from an "
                         "encoder that was not, such as the same fold's of an earlier `finetune --folds`")
    note = f"the initial weights were trained on {count} of {len(rows)} test samples: these cannot score it"
    return replace(splits, notes=(*splits.notes, note)) if count else splits


def _training(request: Request, initial: InitialModel, images: Images, splits: Splits, samples: TrainingSamples,
              own: Processes, device: torch.device) -> Training:
    settings = request.settings
    labels = [label[splits.train] for label in splits.labels.values()]
    slow = settings.precision == "auto" and device.type == "cpu"  # bf16's depth-wise convolutions take twice the time
    precision = "fp32" if slow else resolve_precision(settings.precision, device)
    own_classes = {target: names.classes for target, names in settings.taxonomies.items()
                   if target not in DEFAULT_CLASSES}
    content = {"settings": record_of(settings), "start": initial.weights, "precision": precision,
               "faces": splits.digest(images.keys, images.sha256), "taught": samples.digest(),
               **({"own": own_classes} if own_classes else {})}
    return Training(
        name=_digest(content), model=initial.model, images=images, splits=splits,
        sampling_weights=sampling_weights(labels, settings.balanced_sampling), loss=make_loss(settings, labels),
        settings=settings, precision=precision, device=device, processes=own, state=request.out.with_suffix(".state"),
        minutes=request.minutes, overwrite=request.overwrite)


def _fold_set(manifest: Manifest, initial: InitialModel, settings: Settings) -> str:
    """The same for all encoders of one set of folds, and for no other; empty where there are none."""
    if not settings.folds:
        return ""
    before = initial.training_samples
    source = before.training_id if before and before.folds == settings.folds else initial.weights
    table = manifest.table[["key", "split", "basic", "compound", "group"]].to_csv(index=False)
    return _digest([record_of(settings), initial.name, source, table])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
