"""The verb `predict`: a trained run on the samples of a store, labelled or not; one row a sample, block by block."""

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from twofold.cache.feature_file import BLOCK_ROWS
from twofold.cache.store import Store
from twofold.data.faces.challenge import challenge_frames
from twofold.data.images.sources import NO_FACE, NO_FACE_SUFFIX
from twofold.data.labels import BASIC
from twofold.data.manifest import read_manifest
from twofold.data.readers.cexpr import frames_of
from twofold.data.utils.csv_files import escape_cells
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_header
from twofold.fuse.features import FusedFeatures
from twofold.fuse.runs.read import Run
from twofold.fuse.tables import UNTRAINED
from twofold.fuse.video import (
    parse_window,
    smooth_videos,
    submission_output,
    submission_scores,
    template_keys,
    write_submission,
)

UNCERTAIN = "uncertain"
PLACES = ("source", "frame", "time", "track", "box", "note")  #: of a manifest that `crop` wrote, carried along


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is asked of `predict`.

    top: name that many classes, the likeliest first; threshold: a face whose likeliest class has less is 'uncertain';
    smooth: box:N, gauss:S or none (interpolation alone), empty for single images; basic: the basic expression too;
    template: write the challenge's submission instead; fill: answer its videos that have no face at all; overwrite:
    an older table, or submission, at the same place.
    """

    top: int = 0
    threshold: float = 0.0
    smooth: str = ""
    basic: bool = False
    template: Path | None = None
    fill: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ScoredFaces:
    """Faces in order. scores (n, C), shares (n, K) of the streams, basic (n, 8): nan for faces without features.

    shares and basic have no columns for heads that know none.
    """

    keys: np.ndarray
    groups: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    basic: np.ndarray
    present: np.ndarray  #: (n,) bool: the face has features
    places: np.ndarray  #: (n, P) text: where the face was seen, the columns `PLACES` of footage; P is 0 elsewhere


@dataclass
class Written:
    """What a table holds so far. calls: how often each class was called; interpolated: rows without a face."""

    rows: int = 0
    interpolated: int = 0
    left_out: int = 0
    calls: Counter[str] = field(default_factory=Counter)


def table_output(path: Path, *, overwrite: bool, inputs: Sequence[Path]) -> Output:
    """The table to be written, by the rule of data/utils/outputs.py."""
    return Output(path, OutputKind("a table of `predict`", _is_table), overwrite, inputs)


def _is_table(path: Path) -> bool:
    names = read_header(path)
    return names[:2] == ["key", "prediction"] or names[:2 + len(PLACES)] == ["key", *PLACES, "prediction"]


def write_predictions(out: Output, blocks: Iterable[ScoredFaces], options: PredictOptions, *,
                      classes: tuple[str, ...], streams: Sequence[str]) -> Written:
    """Write key, prediction, what else is asked for, a probability a class, and a share a stream where heads have it.

    The file is there as a whole or not at all.
    """
    written, headed = Written(), False
    with out.writing() as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for faces in blocks:
            if not headed:
                writer.writerow(_header(options, classes, streams[:faces.shares.shape[1]],
                                        PLACES[:faces.places.shape[1]]))
                headed = True
            scored = ~np.isnan(faces.scores[:, 0])
            faceless = np.array([str(key).endswith(NO_FACE_SUFFIX) for key in faces.keys], bool) & ~scored
            lines = [_line(faces, int(row), options, classes) for row in np.flatnonzero(scored | faceless)]
            writer.writerows([*escape_cells([str(line[0])]), *line[1:]] for line in lines)
            written.calls.update(line[1 + faces.places.shape[1]] for line in lines)
            written.rows += len(lines)
            written.left_out += int((~scored & ~faceless).sum())
            written.interpolated += int((scored & ~faces.present).sum())
    return written


def _header(options: PredictOptions, classes: Sequence[str], streams: Sequence[str], places: Sequence[str]
            ) -> list[str]:
    return ["key", *places, "prediction", *(["face"] if options.smooth else []),
            *(f"top{k + 1}" for k in range(options.top)), *(["basic"] if options.basic else []), *classes,
            *(f"share {name}" for name in streams)]


def _line(faces: ScoredFaces, row: int, options: PredictOptions, classes: tuple[str, ...]) -> list[str]:
    """A row of the table; one without scores is a picture without a face, and says so."""
    scores = faces.scores[row]
    order = np.argsort(-scores, kind="stable")
    if np.isnan(scores[0]):
        empty = bool(options.smooth) + options.top + bool(options.basic) + len(classes) + faces.shares.shape[1]
        return [str(faces.keys[row]), *faces.places[row], NO_FACE, *[""] * empty]
    call = classes[int(order[0])] if scores[order[0]] >= options.threshold else UNCERTAIN
    return [str(faces.keys[row]), *faces.places[row], call,
            *(["yes" if faces.present[row] else "no"] if options.smooth else []),
            *(classes[int(k)] for k in order[:options.top]),
            *([BASIC[faces.basic[row].argmax()]] if options.basic else []), *(f"{score:.6f}" for score in scores),
            *("" if np.isnan(share) else f"{share:.6f}" for share in faces.shares[row])]


log = logging.getLogger(__name__)
ALONE = "::alone"  #: the series of rows that nothing comes before or after; no source's name has a colon
TEACHING_BASICS = ("paper", "zeroshot")  #: heads that predict the basic expression on the way


@dataclass(frozen=True)
class Predictions:
    """What `predict` wrote to `out`."""

    out: Path
    written: Written
    notes: list[str]
    faults: int = 0  #: inputs that could not be read, or not to their end

    @property
    def exit_code(self) -> int:
        return 1 if self.written.left_out or self.faults else 0

    def record(self) -> dict:
        return {"out": str(self.out), **vars(self.written), "notes": self.notes}

    def text(self) -> str:
        rows, interpolated = self.written.rows, self.written.interpolated
        between = f", {interpolated} of them without a face and interpolated" if interpolated else ""
        lines = [f"{rows} rows{between} -> {self.out}"]
        lines += [f"{count:8}  {name}" for name, count in self.written.calls.most_common()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def predict(run: Run, store: Path, options: PredictOptions, *, out: Path, inputs: Sequence[Path] = (),
            faults: Sequence[str] = ()) -> Predictions:
    """Predict every face of the store's manifest (of the template, if any) and write `out`, whole or not at all.

    inputs: what the faces come from, which `out` must not be; faults: what is known already to be wrong with them, a
    sentence each.

    Raises InputError if the store's features are of another recipe than the run's (another precision is only a note),
    or no face has features; CacheError if a backbone is missing.
    """
    output = check_options(options, run, out, inputs=inputs)
    place = Store(store)
    if options.template:
        table = pd.DataFrame({"key": template_keys(options.template, run.taxonomy), "group": ""})
    else:
        table = read_manifest(place.manifest_path).table
    keys, groups = table["key"].to_numpy(object), series(table)
    places = table[list(PLACES)].to_numpy(object) if set(PLACES) <= set(table) else np.empty((len(keys), 0), object)
    if all(key.endswith(NO_FACE_SUFFIX) for key in keys):
        nobody = _nobody(run, keys, groups, places)
        written = write_predictions(output, [nobody], options, classes=run.taxonomy.classes, streams=())
        return Predictions(out, written, list(faults), len(faults))
    features, notes = run.features(place)
    notes += [*([UNTRAINED] if run.untrained else []), *faults]
    notes += _seen(run, features)
    frames = _answering(place, keys.tolist(), features.keys) if options.template else keys
    rows = pd.Index(features.keys).get_indexer(pd.Index(frames))
    if (rows < 0).all():
        raise InputError(f"{store}: none of the {len(keys)} faces has features of all backbones of {run.path}")
    for note in notes:
        log.warning("warning: %s", note)
    blocks = _blocks(run, features, keys, groups, places, rows)
    if options.template:
        return _submit(run, options, options.template, output, blocks, notes, len(faults))
    if options.smooth:
        faces, faceless = _smooth(_whole(blocks), parse_window(options.smooth))
        notes += [f"no face in {len(faceless)} videos: {', '.join(faceless[:10])}"] if faceless else []
        blocks = iter([faces])
    written = write_predictions(output, blocks, options, classes=run.taxonomy.classes,
                                streams=run.stream_names)
    if written.left_out:
        notes += [f"{written.left_out} faces have no features and are left out",
                  *_reasons(features, [key for key in keys[rows < 0] if not key.endswith(NO_FACE_SUFFIX)])]
    return Predictions(out, written, notes, len(faults))


def series(table: pd.DataFrame) -> np.ndarray:
    """(N,) which rows follow each other in time, by name: those of a `group`; in footage those of a person.

    Frames without a face belong to the person of their video where there is but one, and to nobody where there are
    several; photographs, and those frames, stand alone.
    """
    if not {"source", "frame", "track"} <= set(table):
        return table["group"].to_numpy(object)
    people = table[table["track"] != ""].groupby("source")["track"].nunique().to_dict()
    names = []
    for source, frame, track in zip(table["source"], table["frame"], table["track"], strict=True):
        several = people.get(source, 0) > 1
        names.append(ALONE if not frame or (several and not track) else f"{source}, person {track}" if several
                     else source)
    return np.array(names, object)


def _answering(store: Store, frames: list[str], keys: np.ndarray) -> list[str]:
    """The faces that answer the frames of a template: cropped from its videos, or kept in its folders, maybe as PNG."""
    table = read_manifest(store.manifest_path).table
    if {"source", "track", "box", "picture"} <= set(table):
        return challenge_frames(table, frames)
    return frames_of(frames, keys)


def check_options(options: PredictOptions, run: Run, out: Path, *, inputs: Sequence[Path]) -> Output:
    """The file to be written. Raises InputError now, rather than after an extraction, for what cannot be done."""
    classes = run.taxonomy.classes
    parse_window(options.smooth or "none")
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold:g} is not a probability (0 to 1)")
    if not 0 <= options.top <= len(classes):
        raise InputError(f"--top {options.top}: the run has {len(classes)} classes")
    if options.basic and run.kind not in TEACHING_BASICS:
        raise InputError(f"--basic: the head of {run.path} is {run.kind!r}, which predicts no basic expression; "
                         f"{' and '.join(TEACHING_BASICS)} do")
    if options.template:
        template_keys(options.template, run.taxonomy)
        if options.top or options.threshold or options.basic:
            raise InputError("a submission has one class a row: leave out --top, --threshold and --basic")
    elif options.fill:
        raise InputError("--fill-videos goes with --submission TEMPLATE")
    output = (submission_output(out, options.template, overwrite=options.overwrite, inputs=inputs) if options.template
              else table_output(out, overwrite=options.overwrite, inputs=inputs))
    output.check()
    return output


def _blocks(run: Run, features: FusedFeatures, keys: np.ndarray, groups: np.ndarray, places: np.ndarray,
            rows: np.ndarray) -> Iterator[ScoredFaces]:
    """The faces in order, `BLOCK_ROWS` at a time: of the features no more than one block is ever in memory."""
    for start in range(0, len(keys), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        present = rows[block] >= 0
        scores = run.scores(features, rows[block][present])
        shares, basic = (np.zeros((1, present.sum(), 0), np.float32) if each is None else each
                         for each in (scores.shares, scores.basic))
        yield ScoredFaces(
            keys=keys[block], groups=groups[block], places=places[block], present=present,
            scores=_spaced(run.calibrated(scores), present), shares=_spaced(shares.mean(axis=0), present),
            basic=_spaced(basic.mean(axis=0), present))


def _nobody(run: Run, keys: np.ndarray, groups: np.ndarray, places: np.ndarray) -> ScoredFaces:
    """Rows for pictures without a face, where there is no other."""
    rows, none = len(keys), np.empty((len(keys), 0), np.float32)
    return ScoredFaces(keys=keys, groups=groups, places=places, shares=none, basic=none, present=np.zeros(rows, bool),
                       scores=np.full((rows, len(run.taxonomy.classes)), np.nan, np.float32))


def _spaced(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(n, W) float32: `values` in the rows that are present, nan in the others."""
    spaced = np.full((len(present), values.shape[1]), np.nan, np.float32)
    spaced[present] = values
    return spaced


def _whole(blocks: Iterable[ScoredFaces]) -> ScoredFaces:
    every = list(blocks)
    return ScoredFaces(**{column.name: np.concatenate([getattr(block, column.name) for block in every])
                          for column in fields(ScoredFaces)})


def _smooth(faces: ScoredFaces, weights: np.ndarray) -> tuple[ScoredFaces, list[str]]:
    """All rows with interpolated and smoothed scores (the basic ones, too), and the videos without any face."""
    timed = np.flatnonzero(faces.groups != ALONE)
    keys, groups = faces.keys[timed].tolist(), faces.groups[timed].tolist()
    scores, basic = faces.scores.copy(), faces.basic.copy()
    scores[timed], faceless = smooth_videos(faces.scores[timed], keys, groups, weights)
    if basic.size:
        basic[timed] = smooth_videos(faces.basic[timed], keys, groups, weights)[0]
    return replace(faces, scores=scores, basic=basic), faceless


def _submit(run: Run, options: PredictOptions, template: Path, out: Output, blocks: Iterator[ScoredFaces],
            notes: list[str], faults: int) -> Predictions:
    faces = _whole(blocks)
    window = parse_window(options.smooth or "none")
    scores = submission_scores(faces.scores, faces.keys.tolist(), window, fill=options.fill)
    calls = scores.argmax(axis=1)
    write_submission(template, out, [run.taxonomy.numbers[call] for call in calls])
    counts = Counter(run.taxonomy.classes[call] for call in calls)
    written = Written(rows=len(calls), interpolated=int((~faces.present).sum()), calls=counts)
    return Predictions(out.path, written, notes, faults)


def _seen(run: Run, features: FusedFeatures) -> list[str]:
    """A note where the run is to predict what it was taught."""
    count = int((~run.seen.unseen(features, np.arange(len(features))).all(axis=1)).sum())
    return [f"{count} of {len(features)} faces are known to {run.path}: it learned from them or was chosen by them, so "
            "these answers say nothing about new faces"] if count else []


def _reasons(features: FusedFeatures, lacking: Sequence[str]) -> list[str]:
    """Why faces have no features, counted by reason."""
    failures = [file.failures for stream in features.streams for file in stream.files]
    reasons = Counter(next((each[key] for each in failures if key in each), "not in the store") for key in lacking)
    return [f"{count} x {reason}" for reason, count in reasons.most_common(5)]
