"""The table that `predict` writes: a row a face."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from twofold.data.images.sources import NO_FACE, NO_FACE_SUFFIX
from twofold.data.labels import BASIC
from twofold.data.utils.csv_files import escape_cells
from twofold.data.utils.outputs import Output, OutputKind, read_header

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
