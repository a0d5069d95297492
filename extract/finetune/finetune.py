"""The verb `finetune`: a backbone learns from labelled faces and becomes a weights file."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from twofold.cache.format.taught import TaughtFaces
from twofold.data.images.sources import ImageRoots, check_roots, hash_images, open_images, parse_roots
from twofold.data.manifest import Manifest, read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import USUAL_MEMORY, free_memory
from twofold.data.utils.outputs import Output
from twofold.extract.devices import parse_device, resolve_precision
from twofold.extract.finetune.history import history_output, history_path, to_tensorboard, write_history
from twofold.extract.finetune.loop import Outcome, Training, run
from twofold.extract.finetune.memory import keep_freed_memory
from twofold.extract.finetune.output import finished, taught_faces, weights_output, write_weights
from twofold.extract.finetune.pixels import Pictures, read_pictures
from twofold.extract.finetune.processes import Processes, launched
from twofold.extract.finetune.report import FinetuneReport, FoldsReport
from twofold.extract.finetune.settings import DEFAULT_CLASSES, Settings, record_of
from twofold.extract.finetune.sides import Sides, check_classes, sides_of
from twofold.extract.finetune.start import Start, start
from twofold.extract.finetune.step import Targets, class_weights
from twofold.extract.weights.find import weights_folder
from twofold.extract.weights.folds import fold_path

SHARE_OF_MEMORY = 0.5  #: of what is free, for decoded faces


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


def finetune(request: Request) -> FinetuneReport | FoldsReport:
    """Train as `request` says and write the weights of the best epoch; the same command goes on after a stop.

    With `settings.folds` it is one encoder a fold, each in a file of its own. Raises InputError for what a person must
    mend, before anything is written.
    """
    folds = request.settings.folds
    if not 0 <= request.fold <= folds:
        raise InputError(f"fold {request.fold} of {folds}: --fold counts from 1 to --folds")
    numbers = [request.fold - 1] if request.fold else range(folds)
    requests = {fold: _of_fold(request, fold) for fold in numbers} if folds else {-1: request}
    for each in requests.values():
        check_out(each.out, overwrite=request.overwrite, inputs=_inputs(each))
    manifest, faces = read_manifest(request.manifest), open_images(parse_roots(request.roots))
    with launched(parse_device(request.device)) as (processes, device):
        if device.type == "cpu":
            keep_freed_memory()
        if not folds:
            return _finetuned(request, manifest, faces, -1, processes, device)
        reports = []
        for fold, each in requests.items():
            reports.append((fold + 1, _finetuned(each, manifest, faces, fold, processes, device)))
            if reports[-1][1].outcome.stopped_by:
                break
        return FoldsReport(tuple(reports), request.out)


def check_out(out: Path, *, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Raises InputError now rather than after training if the weights cannot be written to `out`."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: weights are written as safetensors, so give --out that suffix")
    weights_output(out, overwrite=overwrite, inputs=inputs).check()
    history_output(history_path(out)).check()


def _inputs(request: Request) -> list[Path]:
    """The files that are read: the manifest, and the weights to start from where they are a file."""
    return [request.manifest, *([Path(request.weights)] if request.weights else [])]


def _of_fold(request: Request, fold: int) -> Request:
    """The request of one fold: a file of its own, started from the file that is named or else the same fold's of it."""
    folds, weights = request.settings.folds, request.weights
    if weights and not Path(weights).is_file() and fold_path(Path(weights), fold, folds).is_file():
        weights = str(fold_path(Path(weights), fold, folds))
    return replace(request, out=fold_path(request.out, fold, folds), weights=weights)


def _finetuned(request: Request, manifest: Manifest, faces: ImageRoots, fold: int, processes: Processes,
               device: torch.device) -> FinetuneReport:
    began, settings = time.perf_counter(), request.settings
    sides = sides_of(manifest, settings, fold=fold)
    check_classes(sides, settings)  # before a face is read; again once it is known which can be
    check_roots(faces, [manifest.keys[row] for row in sides.train])
    origin = start(request.backbone, weights=request.weights, folder=weights_folder(), settings=settings)
    pictures, sides = _read(request, manifest, faces, origin, sides)
    taught = _taught(request, manifest, origin, pictures, sides, fold)
    training = _training(request, origin, pictures, sides, taught, processes, device)
    output = weights_output(request.out, overwrite=request.overwrite, inputs=_inputs(request))
    done = finished(output, training.name)
    outcome = done or run(training, progress=request.progress)
    if processes.first and not done:
        _write(request, origin, training, outcome, output)
    return FinetuneReport(out=request.out, start=origin.weights, name=origin.name, settings=settings, sides=sides,
                          outcome=outcome, precision=training.precision, seconds=time.perf_counter() - began,
                          failures=pictures.failures, first=processes.first)


def _read(request: Request, manifest: Manifest, faces: ImageRoots, origin: Start, sides: Sides
          ) -> tuple[Pictures, Sides]:
    """The pictures of train and validation, and the sides less what cannot be read or is a picture of test."""
    rows = np.union1d(sides.train, sides.val)
    memory = request.memory_gb * 1e9 or SHARE_OF_MEMORY * (free_memory() or USUAL_MEMORY)
    pictures = read_pictures(manifest.keys, rows, faces, origin.architecture.preprocessing, memory=memory,
                             progress=request.progress)
    sides = sides.without(np.array(list(pictures.failures), int), "their image files cannot be read")
    test = hash_images(faces, [manifest.keys[row] for row in sides.test])
    sides = _check_start(request, manifest, origin, sides, test)
    digests = set(test.values())
    same = np.array([row for row, digest in pictures.sha256.items() if digest in digests], int)
    sides = sides.without(same, "their image files are those of test faces")
    chosen = {pictures.sha256[row] for row in sides.val}
    twins = np.array([row for row in sides.train if pictures.sha256[row] in chosen], int)
    train = np.setdiff1d(sides.train, twins)
    notes = (*sides.notes, f"{len(twins)} faces left out of train: their image files are those of validation faces")
    return pictures, check_classes(replace(sides, train=train, notes=notes if len(twins) else sides.notes),
                                   request.settings)


def _check_start(request: Request, manifest: Manifest, origin: Start, sides: Sides, test: Mapping[str, str]) -> Sides:
    """The sides, with a note where the encoder to start from was taught with test faces. test: of these, by key, the
    SHA-256 of the image file. Raises InputError for that with folds: no face would be left to score the encoder."""
    rows = [row for row in sides.test if manifest.keys[row] in test]
    if origin.taught is None or not rows:
        return sides
    groups = manifest.table["group"].to_numpy(object)[rows]
    count = int(origin.taught.has([test[manifest.keys[row]] for row in rows], groups).sum())
    if count and request.settings.folds:
        raise InputError(f"--weights {request.weights} was taught with {count} of the {len(rows)} faces that "
                         f"{request.out.name} is to be scored by (the same bytes or group): start each fold from an "
                         "encoder that was not, such as the same fold's of an earlier `finetune --folds`")
    note = f"{count} of {len(rows)} test faces taught the encoder that this one starts from: they cannot score it"
    return replace(sides, notes=(*sides.notes, note)) if count else sides


def _taught(request: Request, manifest: Manifest, origin: Start, pictures: Pictures, sides: Sides,
            fold: int) -> TaughtFaces:
    rows = np.union1d(sides.train, sides.val)
    return taught_faces([pictures.sha256[row] for row in rows], manifest.table["group"].to_numpy(object)[rows],
                        before=origin.taught, fold=fold, folds=request.settings.folds,
                        training=_fold_set(manifest, origin, request.settings))


def _training(request: Request, origin: Start, pictures: Pictures, sides: Sides, taught: TaughtFaces,
              processes: Processes, device: torch.device) -> Training:
    settings = request.settings
    widths = tuple(len(names.classes) for names in settings.taxonomies.values())
    weights = [class_weights(labels[sides.train], width, settings.class_weights)
               for labels, width in zip(sides.labels.values(), widths, strict=True)]
    scale = tuple(settings.basic_weight if settings.target == "both" and target == "basic" else 1.0
                  for target in settings.targets)
    targets = Targets(widths, torch.from_numpy(np.concatenate(weights)).float(), scale, settings.label_smoothing)
    slow = settings.precision == "auto" and device.type == "cpu"  # bf16's depth-wise convolutions take twice the time
    precision = "fp32" if slow else resolve_precision(settings.precision, device)
    own = {target: names.classes for target, names in settings.taxonomies.items() if target not in DEFAULT_CLASSES}
    content = json.dumps({"settings": record_of(settings), "start": origin.weights, "precision": precision,
                          "faces": _digest_of(pictures, sides), "taught": taught.digest()} |
                         ({"own": own} if own else {}), sort_keys=True)
    return Training(
        name=hashlib.sha256(content.encode()).hexdigest(), learner=origin.learner, pictures=pictures, sides=sides,
        taught=taught, odds=_odds(sides, settings), targets=targets, settings=settings, precision=precision,
        device=device, processes=processes, state=request.out.with_suffix(".state"), minutes=request.minutes,
        overwrite=request.overwrite)


def _odds(sides: Sides, settings: Settings) -> np.ndarray | None:
    """(train,) how often each face is drawn: the inverse frequency of its class to a power; the compound's first."""
    if not settings.balanced_sampling:
        return None
    odds = np.ones(len(sides.train))
    for labels in sides.labels.values():
        own = labels[sides.train]
        weights = class_weights(own, own.max() + 1, settings.balanced_sampling)
        odds = np.where(own >= 0, weights[own], odds)
    return odds / odds.sum()


def _digest_of(pictures: Pictures, sides: Sides) -> str:
    """Of the faces that teach and choose, and what they teach."""
    total = hashlib.sha256()
    for rows in (sides.train, sides.val):
        for row in rows:
            labels = [int(label[row]) for label in sides.labels.values()]
            total.update(f"{pictures.keys[row]}\0{pictures.sha256[row]}\0{labels}\n".encode())
    return total.hexdigest()


def _write(request: Request, origin: Start, training: Training, outcome: Outcome, output: Output) -> None:
    progress = outcome.progress
    if progress.history:
        write_history(history_output(history_path(output.path)), progress.history)
        if request.tensorboard:
            to_tensorboard(request.tensorboard, progress.history)
    if not outcome.has_weights:
        return
    write_weights(output, origin, progress, request.settings, training.taught,
                  {"training": training.name, "diverged": str(outcome.diverged)})
    training.state.unlink(missing_ok=True)


def _fold_set(manifest: Manifest, origin: Start, settings: Settings) -> str:
    """The same for all encoders of one set of folds, and for no other; empty where there are none."""
    if not settings.folds:
        return ""
    faces = manifest.table[["key", "split", "basic", "compound", "group"]].to_csv(index=False)
    source = origin.taught.training if origin.taught and origin.taught.folds == settings.folds else origin.weights
    content = json.dumps([record_of(settings), origin.name, source, faces], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
