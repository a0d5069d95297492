"""The verb `predict`: a trained run on the samples of a store, labelled or not; one row per sample, block by block."""

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
from twofold.data.labels import BASIC
from twofold.data.manifest import read_manifest
from twofold.data.readers.cexpr import frames_of
from twofold.data.utils.csv_files import escape_cells
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX
from twofold.data.utils.outputs import Output, OutputKind, read_header
from twofold.fuse.core.features import Features
from twofold.fuse.core.settings import HEAD_TYPES
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

log = logging.getLogger(__name__)
UNCERTAIN = "uncertain"
PARQUET = ".parquet"
ORIGIN = ("source", "frame", "time", "track", "box", "note")  #: columns of a manifest that `crop` wrote
STANDALONE = "::alone"  #: the sequence of rows that nothing comes before or after; no source's name has a colon


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `predict`.

    top: name that many classes, the most probable first; threshold: a sample whose most probable class has less is
    'uncertain'; smooth: box:N, gauss:S or none (interpolation only), empty for single images; basic: the basic
    expression too; template: write the challenge's submission instead; fill: predict its videos that have no face at
    all; overwrite: an older table, or submission, at the same place.
    """

    top: int = 0
    threshold: float = 0.0
    smooth: str = ""
    basic: bool = False
    template: Path | None = None
    fill: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Block:
    """Rows of the table in order: scores (n, C), stream_weights (n, K), basic (n, 8), nan for samples without features.

    stream_weights and basic have no columns for heads without them.
    """

    keys: np.ndarray
    groups: np.ndarray
    origin: np.ndarray  #: (n, P) text: the columns `ORIGIN` of footage; P is 0 elsewhere
    present: np.ndarray  #: (n,) bool: the sample has features
    scores: np.ndarray
    stream_weights: np.ndarray
    basic: np.ndarray


@dataclass
class TableCounts:
    """The rows of a table so far. calls: how often each class is predicted; interpolated: rows without a face."""

    rows: int = 0
    interpolated: int = 0
    left_out: int = 0
    calls: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PredictReport:
    """What `predict` wrote to `out`."""

    out: Path
    written: TableCounts
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
            faults: Sequence[str] = ()) -> PredictReport:
    """Predict every sample of the store's manifest (of the template, if any) and write `out`, whole or not at all.

    inputs: where the samples come from, which `out` must not be; faults: what is already known to be wrong with them,
    a sentence each.

    Raises InputError if the store's features are of another recipe than the run's (another precision is only a note),
    or no sample has features; CacheError if a backbone is missing.
    """
    output = check_options(options, run, out, inputs=inputs)
    place = Store(store)
    if options.template:
        table = pd.DataFrame({"key": template_keys(options.template, run.taxonomy), "group": ""})
    else:
        table = read_manifest(place.manifest_path).table
    keys, groups = table["key"].to_numpy(object), sequences(table)
    origin = table[list(ORIGIN)].to_numpy(object) if set(ORIGIN) <= set(table) else np.empty((len(keys), 0), object)
    classes = run.taxonomy.classes
    if all(key.endswith(NO_FACE_SUFFIX) for key in keys):
        none = np.empty((len(keys), 0), np.float32)
        block = Block(keys, groups, origin, np.zeros(len(keys), bool),
                      np.full((len(keys), len(classes)), np.nan, np.float32), none, none)
        counts = write_table(output, [block], options, classes=classes, streams=())
        return PredictReport(out, counts, list(faults), len(faults))
    features, notes = run.features(place)
    seen = np.asarray(~np.all(run.seen.unseen(features, np.arange(len(features))), axis=1))
    notes += [*([UNTRAINED] if run.untrained else []), *faults, *seen_samples_note(run, seen)]
    frames = _template_frames(place, keys.tolist(), features.keys) if options.template else keys
    rows = pd.Index(features.keys).get_indexer(pd.Index(frames))
    if (rows < 0).all():
        raise InputError(f"{store}: none of the {len(keys)} samples has features of all backbones of {run.path}")
    for note in notes:
        log.warning("warning: %s", note)
    blocks = _blocks(run, features, keys, groups, origin, rows)
    if options.template:
        return _submit(run, options, options.template, output, blocks, notes, len(faults))
    if options.smooth:
        block, faceless = _smooth(_concatenate(blocks), parse_window(options.smooth))
        notes += [f"no face in {len(faceless)} videos: {', '.join(faceless[:10])}"] if faceless else []
        blocks = iter([block])
    counts = write_table(output, blocks, options, classes=classes, streams=run.stream_names)
    if counts.left_out:
        notes += [f"{counts.left_out} samples have no features and are left out",
                  *_reasons(features, [key for key in keys[rows < 0] if not key.endswith(NO_FACE_SUFFIX)])]
    return PredictReport(out, counts, notes, len(faults))


def check_table_name(out: Path) -> None:
    """Raises InputError for a table that would not be what its name says."""
    if out.suffix.lower() not in (PARQUET, ".csv", ""):
        raise InputError(f"{out}: a table is written as .csv or .parquet: choose one of these names")
    if out.suffix.lower() == PARQUET:
        try:
            pd.DataFrame({"key": [""]}).to_parquet()  # with what pandas writes it with
        except ImportError:
            raise InputError(f"{out}: Parquet needs pyarrow: pip install 'twofold[parquet]'") from None


def seen_samples_note(run: Run, seen: np.ndarray) -> list[str]:
    """What is to be said where a run predicts samples (n,) bool of its own training and validation sets."""
    return [f"{int(seen.sum())} of {len(seen)} samples were in the training or validation set of {run.path}: these "
            "predictions say nothing about new samples"] if seen.any() else []


def check_options(options: PredictOptions, run: Run, out: Path, *, inputs: Sequence[Path]) -> Output:
    """The file to be written. Raises InputError now, rather than after an extraction, for what cannot be done."""
    classes = run.taxonomy.classes
    parse_window(options.smooth or "none")
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold:g} is not a probability (0 to 1)")
    if not 0 <= options.top <= len(classes):
        raise InputError(f"--top {options.top}: the run has {len(classes)} classes")
    if options.basic and not HEAD_TYPES[run.kind].outputs_basic:
        able = " and ".join(name for name, kind in HEAD_TYPES.items() if kind.outputs_basic)
        raise InputError(f"--basic: the head of {run.path} is {run.kind!r}, which predicts no basic expression; "
                         f"{able} do")
    if options.template:
        template_keys(options.template, run.taxonomy)
        if options.top or options.threshold or options.basic:
            raise InputError("a submission has one class a row: leave out --top, --threshold and --basic")
    else:
        if options.fill:
            raise InputError("--fill-videos goes with --submission TEMPLATE")
        check_table_name(out)
    output = (submission_output(out, options.template, overwrite=options.overwrite, inputs=inputs) if options.template
              else Output(out, OutputKind("a table of `predict`", _is_table), options.overwrite, inputs))
    output.check()
    return output


def sequences(table: pd.DataFrame) -> np.ndarray:
    """(N,) the sequence of each row, by name: a `group`; in footage the samples of a person.

    Frames without a face belong to the person of their video if there is only one. Photographs, and other frames
    without a face, stand alone.
    """
    if not {"source", "frame", "track"} <= set(table):
        return table["group"].to_numpy(object)
    people = table[table["track"] != ""].groupby("source")["track"].nunique().to_dict()
    names = []
    for source, frame, track in zip(table["source"], table["frame"], table["track"], strict=True):
        several = people.get(source, 0) > 1
        names.append(STANDALONE if not frame or (several and not track) else f"{source}, person {track}" if several
                     else source)
    return np.array(names, object)


def write_table(out: Output, blocks: Iterable[Block], options: PredictOptions, *, classes: tuple[str, ...],
                streams: Sequence[str]) -> TableCounts:
    """Write key, prediction, the columns asked for, a probability per class, and a weight per stream of heads with
    such; as Parquet or CSV, by the file's name. The file is there as a whole or not at all."""
    counts = TableCounts()
    lines = _lines(blocks, options, classes, streams, counts)
    with out.writing() as temporary:
        if out.path.suffix.lower() == PARQUET:
            names = next(lines)
            table = pd.DataFrame(list(lines), columns=names)
            numbers = [name for name in names if name in classes or name.startswith("share ")]
            table[numbers] = table[numbers].apply(pd.to_numeric)
            table.to_parquet(temporary, index=False)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(
                    [*escape_cells([line[0]]), *line[1:]] for line in lines)
    return counts


def _lines(blocks: Iterable[Block], options: PredictOptions, classes: tuple[str, ...], streams: Sequence[str],
           counts: TableCounts) -> Iterator[list[str]]:
    """The header and the rows of the table; they are counted in `counts`."""
    header = True
    for block in blocks:
        if header:
            yield _header(options, classes, streams[:block.stream_weights.shape[1]], ORIGIN[:block.origin.shape[1]])
            header = False
        scored = ~np.isnan(block.scores[:, 0])
        faceless = np.array([str(key).endswith(NO_FACE_SUFFIX) for key in block.keys], bool) & ~scored
        for row in np.flatnonzero(scored | faceless):
            line = _line(block, int(row), options, classes)
            counts.calls[line[1 + block.origin.shape[1]]] += 1
            counts.rows += 1
            yield line
        counts.left_out += int((~scored & ~faceless).sum())
        counts.interpolated += int((scored & ~block.present).sum())


def _is_table(path: Path) -> bool:
    names = pd.read_parquet(path).columns.tolist() if path.suffix.lower() == PARQUET else read_header(path)
    return names[:2] == ["key", "prediction"] or names[:2 + len(ORIGIN)] == ["key", *ORIGIN, "prediction"]


def _header(options: PredictOptions, classes: Sequence[str], streams: Sequence[str], origin: Sequence[str]
            ) -> list[str]:
    return ["key", *origin, "prediction", *(["face"] if options.smooth else []),
            *(f"top{k + 1}" for k in range(options.top)), *(["basic"] if options.basic else []), *classes,
            *(f"share {name}" for name in streams)]


def _line(block: Block, row: int, options: PredictOptions, classes: tuple[str, ...]) -> list[str]:
    """A row of the table; one without scores is a picture without a face, and says so."""
    scores = block.scores[row]
    order = np.argsort(-scores, kind="stable")
    if np.isnan(scores[0]):
        empty = bool(options.smooth) + options.top + bool(options.basic) + len(classes) + block.stream_weights.shape[1]
        return [str(block.keys[row]), *block.origin[row], NO_FACE, *[""] * empty]
    predicted = classes[int(order[0])] if scores[order[0]] >= options.threshold else UNCERTAIN
    return [str(block.keys[row]), *block.origin[row], predicted,
            *(["yes" if block.present[row] else "no"] if options.smooth else []),
            *(classes[int(k)] for k in order[:options.top]),
            *([BASIC[block.basic[row].argmax()]] if options.basic else []), *(f"{score:.6f}" for score in scores),
            *("" if np.isnan(weight) else f"{weight:.6f}" for weight in block.stream_weights[row])]


def _template_frames(store: Store, frames: list[str], keys: np.ndarray) -> list[str]:
    """The samples for the frames of a template: cropped from its videos, or kept in its folders, maybe as PNG."""
    table = read_manifest(store.manifest_path).table
    if {"source", "track", "box", "picture"} <= set(table):
        return challenge_frames(table, frames)
    return frames_of(frames, keys)


def _blocks(run: Run, features: Features, keys: np.ndarray, groups: np.ndarray, origin: np.ndarray,
            rows: np.ndarray) -> Iterator[Block]:
    """The samples in order, `BLOCK_ROWS` at a time: no more than one block of features is ever in memory."""
    for start in range(0, len(keys), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        present = rows[block] >= 0
        output = run.scores(features, rows[block][present])
        weights, basic = (np.zeros((1, present.sum(), 0), np.float32) if each is None else each
                          for each in (output.stream_weights, output.basic))
        yield Block(keys[block], groups[block], origin[block], present, _with_missing(run.calibrated(output), present),
                    _with_missing(weights.mean(axis=0), present), _with_missing(basic.mean(axis=0), present))


def _with_missing(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(n, W) float32: `values` in the rows that are present, nan in the others."""
    spaced = np.full((len(present), values.shape[1]), np.nan, np.float32)
    spaced[present] = values
    return spaced


def _concatenate(blocks: Iterable[Block]) -> Block:
    every = list(blocks)
    return Block(*(np.concatenate([getattr(block, column.name) for block in every]) for column in fields(Block)))


def _smooth(block: Block, window: np.ndarray) -> tuple[Block, list[str]]:
    """All rows with interpolated and smoothed scores (the basic ones, too), and the videos without any face."""
    timed = np.flatnonzero(block.groups != STANDALONE)
    keys, groups = block.keys[timed].tolist(), block.groups[timed].tolist()
    scores, basic = block.scores.copy(), block.basic.copy()
    scores[timed], faceless = smooth_videos(block.scores[timed], keys, groups, window)
    if basic.size:
        basic[timed] = smooth_videos(block.basic[timed], keys, groups, window)[0]
    return replace(block, scores=scores, basic=basic), faceless


def _submit(run: Run, options: PredictOptions, template: Path, out: Output, blocks: Iterator[Block],
            notes: list[str], faults: int) -> PredictReport:
    block = _concatenate(blocks)
    scores = submission_scores(block.scores, block.keys.tolist(), parse_window(options.smooth or "none"),
                               fill=options.fill)
    predicted = scores.argmax(axis=1)
    write_submission(template, out, [run.taxonomy.numbers[c] for c in predicted])
    counts = TableCounts(rows=len(predicted), interpolated=int((~block.present).sum()),
                         calls=Counter(run.taxonomy.classes[c] for c in predicted))
    return PredictReport(out.path, counts, notes, faults)


def _reasons(features: Features, lacking: Sequence[str]) -> list[str]:
    """Why samples have no features, counted by reason."""
    failures = [file.failures for stream in features.streams for file in stream.files]
    reasons = Counter(next((each[key] for each in failures if key in each), "not in the store") for key in lacking)
    return [f"{count} x {reason}" for reason, count in reasons.most_common(5)]
