"""The verb `predict`: a trained run on the samples of a store, labelled or not; one row per sample.

Scores of a video's frames may be smoothed, or written as the submission of a challenge.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twofold.cache.feature_file import BLOCK_ROWS, block_rows
from twofold.cache.report import table as text_table
from twofold.cache.store import Store
from twofold.data.faces.align import head_pose
from twofold.data.labels import BASIC
from twofold.data.utils.csv_files import escape_cells
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX
from twofold.data.utils.outputs import Output, OutputKind, read_header
from twofold.data.utils.terminal import Summary
from twofold.fuse.answers import MOST_LINES, NONE, UNCERTAIN, answer_rows, answers, check_second, decide, output_columns
from twofold.fuse.core.features import Features
from twofold.fuse.core.split import samples_seen
from twofold.fuse.runs.read import Run
from twofold.fuse.series import (
    EVENTS,
    check_events_name,
    check_rate,
    require_videos,
    resample,
    write_events,
)
from twofold.fuse.smoothing import STANDALONE, parse_window, sequences, smooth_videos
from twofold.fuse.submission import read_template
from twofold.fuse.tables import UNTRAINED

log = logging.getLogger(__name__)
SHOWN = 50  #: answers that the summary counts
PARQUET = ".parquet"
NUMBERS = ("frame", "time", "track", "person")  #: texts in manifests, numbers in Parquet
ORIGIN = ("source", "frame", "time", "track", "box", "note")  #: columns of a manifest that `crop` wrote


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `predict`.

    top: name that many classes, the most probable first; threshold: a sample whose most probable class has less is
    'uncertain'; second: the least share of a compound's weaker emotion (`decide`), None is the usual; smooth: box:N,
    gauss:S or none (interpolation only), empty for single images; template: write the challenge's submission instead;
    fill: predict its videos that have no face at all; rate: rows a second of videos, None for a row a frame;
    embeddings: a column for each feature, too; events: file of the events in videos; overwrite: older files of ours.
    """

    top: int = 0
    threshold: float = 0.0
    smooth: str = ""
    second: float | None = None
    template: Path | None = None
    fill: bool = False
    rate: float | None = None
    embeddings: bool = False
    events: Path | None = None
    overwrite: bool = False


def predict(run: Run, store: Path, options: PredictOptions, *, out: Path | None, inputs: Sequence[Path] = (),
            faults: Sequence[str] = ()) -> Summary:
    """Predict every sample of the store's manifest (of the template, if any) and write `out`, whole or not at all;
    without it the answers stand in the summary.

    inputs: where the samples come from, which `out` must not be; faults: what is already known to be wrong with them,
    a sentence each.

    Raises InputError if the store's features are of another recipe than the run's (another precision is only a note),
    or no sample has features; CacheError if a backbone is missing.
    """
    output, task = check_options(options, run, out, inputs=inputs), run.task
    samples = run.samples(Store(store)).table
    template = read_template(options.template, task) if options.template else None
    for option, wanted in (("--hz", options.rate), ("a file of events", options.events)):
        if wanted is not None:
            require_videos(samples, option)
    keys = pd.Series(template.keys if template else samples["key"], dtype=object)
    without_face = keys.str.endswith(NO_FACE_SUFFIX).to_numpy(bool)
    rows, notes, features = np.full(len(keys), -1), list(faults), None
    if not without_face.all():
        features, notes = run.features(Store(store))
        seen = samples_seen(run.seen, features)
        notes += [*([UNTRAINED] if run.untrained else []), *faults, *seen_samples_note(run, seen)]
        frames = template.find(samples, features.keys) if template else keys
        rows = pd.Index(features.keys).get_indexer(pd.Index(frames))
        if (rows < 0).all():
            raise InputError(f"{store}: none of the {len(keys)} samples has features of all backbones of {run.path}")
        for note in notes:
            log.warning("warning: %s", note)
    probabilities, basic, stream_weights = _scores(run, features, rows)
    if template and output:
        probabilities = template.complete(probabilities, parse_window(options.smooth or "none"), fill=options.fill)
        thresholds = run.calibration.rows(len(probabilities))
        with output.writing() as temporary:
            template.write(temporary, template.content(task, probabilities, thresholds))
        answered = task.decide(probabilities, thresholds).tolist()
        return _summary(output.path, answered, int((rows < 0).sum()), 0, notes, faults)
    further = _further(run, options, samples, np.hstack([probabilities, basic]), features, rows)
    if options.smooth:
        groups, both = sequences(samples), np.hstack([probabilities, basic])
        timed = np.flatnonzero(groups != STANDALONE)
        both[timed], faceless = smooth_videos(both[timed], keys[timed].tolist(), groups[timed].tolist(),
                                              parse_window(options.smooth))
        probabilities, basic = np.split(both, [len(task.outputs)], axis=1)
        notes += [f"no face in {len(faceless)} videos: {', '.join(faceless[:10])}"] if faceless else []
    scored = ~np.isnan(probabilities[:, 0])
    left_out = int((~scored & ~without_face).sum())
    if left_out and features:
        failures = [file.failures for stream in features.streams for file in stream.files]
        reasons = Counter(next((each[key] for each in failures if key in each), "not in the store")
                          for key in keys[(rows < 0) & ~without_face])
        notes += [f"{left_out} samples have no features and are left out",
                  *(f"{count} x {reason}" for reason, count in reasons.most_common(5))]
    has_features, kept = rows >= 0, scored | without_face
    if options.rate:
        samples, (probabilities, basic, stream_weights, more, boxes, share) = _resampled(
            samples[kept], [probabilities, basic, stream_weights, further.to_numpy(), _boxes(samples),
                            has_features[:, None].astype(float)], kept, options.rate)
        further, has_features = pd.DataFrame(more, columns=further.columns), np.nan_to_num(share[:, 0]) > 0
        samples["box"] = ["" if np.isnan(box[0]) else " ".join(f"{value:g}" for value in box.round(2)) for box in boxes]
        scored = ~np.isnan(probabilities[:, 0])
        kept = np.ones(len(samples), bool)
    table = pd.concat([_table(run, options, samples, probabilities, basic, stream_weights, has_features=has_features),
                       further.set_index(samples.index)], axis=1)
    table = table[kept]
    if run.basics and (none := int((table["prediction"] == NONE).sum())):
        notes += [f"{none} of {int(scored.sum())} answers are `{NONE}`: an emotion of the nearest compound has less "
                  f"than {100 * check_second(run, options.second):g} % of the basic probabilities (--second)"]
    if options.events:
        count = write_events(table, events_output(options, options.events, inputs))
        notes += [f"{count} events -> {options.events}"]
    if output is None:
        records = answers(table, run, basic[kept], second=check_second(run, options.second))
        more = [f"... and {len(records) - MOST_LINES} more: -o OUT.csv writes all"] if len(records) > MOST_LINES else []
        rows_shown = answer_rows(records, shares=task.classes == len(task.outputs))
        return Summary([*text_table(rows_shown), *more, *(f"note: {note}" for note in notes)],
                       {"answers": records, "left_out": left_out, "notes": notes}, int(bool(left_out or faults)))
    write_table(table, output)
    interpolated = int((scored & ~has_features).sum())
    return _summary(output.path, table["prediction"].tolist(), interpolated, left_out, notes, faults,
                    counted=not any(task.numbers))


def _summary(out: Path, predictions: Sequence[str], interpolated: int, left_out: int, notes: Sequence[str],
             faults: Sequence[str], *, counted: bool = True) -> Summary:
    """What was written: one prediction per row; interpolated: rows without a face; left_out: samples without features.
    """
    calls = Counter(predictions if counted else ())
    between = f", {interpolated} of them without a face and interpolated" if interpolated else ""
    lines = [f"{len(predictions)} rows{between} -> {out}",
             *(f"{count:8}  {name}" for name, count in calls.most_common(SHOWN)), *(f"note: {note}" for note in notes)]
    return Summary(lines, {"out": str(out), "rows": len(predictions), "interpolated": interpolated,
                           "left_out": left_out, "calls": calls, "notes": notes}, int(bool(left_out or faults)))


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
    return [f"{int(seen.sum())} of {len(seen)} samples were in the training or validation set of {run.path} or its "
            "encoders: these predictions say nothing about new samples"] if seen.any() else []


def check_options(options: PredictOptions, run: Run, out: Path | None, *, inputs: Sequence[Path]) -> Output | None:
    """The file to be written, if any. Raises InputError now, not after an extraction, for what cannot be done."""
    parse_window(options.smooth or "none")
    if options.smooth and run.settings.unit:
        raise InputError(f"--smooth is of frames: {run.path} answers once a {run.settings.unit}")
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold:g} is not a probability (0 to 1)")
    if (options.top or options.threshold) and run.task.classes < len(run.task.outputs):
        raise InputError(f"--top and --threshold are of classes: {run.path} is a run of {run.task.kind}")
    if not 0 <= options.top <= len(run.task.outputs):
        raise InputError(f"--top {options.top}: the run has {len(run.task.outputs)} classes")
    check_second(run, options.second)
    check_rate(options.rate)
    if run.settings.unit and (options.rate or options.events):
        raise InputError(f"--hz and events are of frames: {run.path} answers once a {run.settings.unit}")
    if (options.rate or options.embeddings) and (out is None or options.template):
        raise InputError("--hz and --embeddings are of the table: name one with -o, without --submission")
    if options.events:
        if options.template or run.task.classes < len(run.task.outputs) or run.calibration.thresholds:
            raise InputError(f"{options.events}: events are of classes, not of labels, numbers, blends or a submission")
        check_events_name(options.events)
        events_output(options, options.events, [*inputs, *([out] if out else [])]).check()
    if out is None and options.template:
        raise InputError("--submission writes a file: name it with -o")
    if out is None:
        return None
    if options.template:
        template = read_template(options.template, run.task)
        if options.top or options.threshold or options.second is not None:
            raise InputError("a submission has one answer a row: leave out --top, --threshold and --second")
        output = Output(out, OutputKind("a submission for this template", template.is_filled), options.overwrite,
                        [*inputs, options.template])
    else:
        if options.fill:
            raise InputError("--fill-videos goes with --submission TEMPLATE")
        check_table_name(out)
        output = Output(out, OutputKind("a table of `predict`", _is_table), options.overwrite, inputs)
    output.check()
    return output


def events_output(options: PredictOptions, path: Path, inputs: Sequence[Path]) -> Output:
    return Output(path, EVENTS, options.overwrite, inputs)


def write_table(table: pd.DataFrame, out: Output) -> None:
    """Write a table with a column `key` as Parquet or CSV, by the file's name, numbers to six decimals."""
    table = table.round(6)  # the same numbers in both formats
    with out.writing() as temporary:
        if out.path.suffix.lower() == PARQUET:
            numbers = {name: pd.to_numeric(table[name].replace("", None)) for name in NUMBERS if name in table}
            cells = table.assign(**{name: each.astype(float) if name == "time" else each.astype("Int64")
                                    for name, each in numbers.items()})
            cells.to_parquet(temporary, index=False)
        else:
            cells, place = table.copy(deep=False), table.columns.tolist().index("key")
            cells.isetitem(place, escape_cells(table.iloc[:, place].tolist()))
            cells.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6f")


def column_names(path: Path) -> list[str]:
    """The columns of a table that `write_table` may have written."""
    return pd.read_parquet(path).columns.tolist() if path.suffix.lower() == PARQUET else read_header(path)


def _is_table(path: Path) -> bool:
    names = [name for name in column_names(path) if name != "person"]
    return names[:2] == ["key", "prediction"] or names[:2 + len(ORIGIN)] == ["key", *ORIGIN, "prediction"]


def _scores(run: Run, features: Features | None, rows: np.ndarray) -> list[np.ndarray]:
    """Probabilities (N, C), of basic emotions (N, 8), and weights of the streams (N, K) in these rows of the features,
    nan in rows of -1. The last two have no columns for heads without them.

    At most `BLOCK_ROWS` samples at a time: no more than one block of features is ever in memory.
    """
    places, count = rows[rows >= 0], block_rows(sum(run.head.spec.dims), BLOCK_ROWS)
    blocks = [tuple(np.empty((0, columns)) for columns in (len(run.task.outputs), len(run.basics), 0))]
    if features:
        blocks = [run.means(run.scores(features, places[start:start + count]))
                  for start in range(0, len(places), count)]
    spaced = []
    for values in map(np.concatenate, zip(*blocks, strict=True)):
        spaced.append(np.full((len(rows), values.shape[1]), np.nan, np.float32))
        spaced[-1][rows >= 0] = values
    return spaced


def _further(run: Run, options: PredictOptions, samples: pd.DataFrame, raw: np.ndarray, features: Features | None,
             rows: np.ndarray) -> pd.DataFrame:
    """Numbers of each sample besides its scores, nan where it has none: the pose of the head where landmarks are known,
    the scores (N, C + 8) before smoothing, the features."""
    columns = {}
    if "landmarks" in samples:
        pose, seen = np.full((len(samples), 3), np.nan), samples["landmarks"].str.count(" ").eq(9).to_numpy()
        if seen.any():
            points = [text.split() for text in samples["landmarks"][seen]]
            pose[seen] = head_pose(np.array(points, float).reshape(-1, 5, 2))
        columns |= dict(zip(("yaw", "pitch", "roll"), pose.T, strict=True))
    if options.smooth:
        columns |= {f"raw {name}": values for name, values in output_columns(
            run, raw[:, :len(run.task.outputs)], raw[:, len(run.task.outputs):]).items()}
    if options.embeddings and features:
        values = np.full((len(samples), sum(run.head.spec.dims)), np.nan, np.float32)
        values[rows >= 0] = features.read(rows[rows >= 0], range(len(run.streams)))
        columns |= {f"e{number}": column for number, column in enumerate(values.T)}
    return pd.DataFrame(columns, index=samples.index)


def _boxes(samples: pd.DataFrame) -> np.ndarray:
    """(N, 4) x, y, width, height, nan where there is none."""
    boxes, there = np.full((len(samples), 4), np.nan), samples["box"].ne("").to_numpy()
    if there.any():
        boxes[there] = np.array([text.split() for text in samples["box"][there]], float)
    return boxes


def _resampled(samples: pd.DataFrame, values: Sequence[np.ndarray], kept: np.ndarray, rate: float
               ) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """`resample` of several arrays side by side."""
    ends = np.cumsum([each.shape[1] for each in values])[:-1]
    samples, means = resample(samples, np.hstack(values)[kept], rate)
    return samples, np.split(means, ends, axis=1)


def _table(run: Run, options: PredictOptions, samples: pd.DataFrame, probabilities: np.ndarray, basic: np.ndarray,
           stream_weights: np.ndarray, *, has_features: np.ndarray) -> pd.DataFrame:
    """Key, origin, prediction, the columns asked for, a probability per class and, of heads with such, per basic
    emotion, and a weight per stream. A row without scores is a picture without a face, and says so."""
    classes, scored = np.array(run.task.outputs, object), ~np.isnan(probabilities[:, 0])
    order = np.argsort(-probabilities, axis=1, kind="stable")
    certain = ~scored | (probabilities.max(axis=1, initial=0) >= options.threshold) | (options.threshold == 0)
    called = decide(run, probabilities, basic, second=check_second(run, options.second))
    columns = {"prediction": np.where(certain | (called == NONE), called, UNCERTAIN)}
    columns |= {"face": np.where(has_features, "yes", "no")} if options.smooth else {}
    columns |= {f"top{k + 1}": classes[order[:, k]] for k in range(options.top)}
    columns |= {"basic": np.array(BASIC, object)[basic.argmax(axis=1)]} if run.basics else {}
    texts = pd.DataFrame(columns, samples.index, dtype=object)
    texts[~scored] = ""
    texts.loc[~scored, "prediction"] = NO_FACE
    shares = [f"share {name}" for name in run.stream_names][:stream_weights.shape[1]]
    footage = set(ORIGIN) <= set(samples)
    origin = samples[["key", *(ORIGIN if footage else ()), *(("person",) if footage and "person" in samples else ())]]
    return pd.concat([origin, texts, output_columns(run, probabilities, basic),
                      pd.DataFrame(stream_weights.astype(float), columns=shares)], axis=1)
