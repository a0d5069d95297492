"""The verb `predict`: a trained run on the faces of a store, labelled or not; one row a face, block by block."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from twofold.cache.atomic import published
from twofold.cache.format.featurefile import BLOCK_ROWS, FeatureFile
from twofold.cache.recipe import differences
from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.data.labels import BASIC
from twofold.data.manifest import read_manifest
from twofold.fuse.evaluate import matching_file
from twofold.fuse.features import spelled
from twofold.fuse.run import Run
from twofold.fuse.scores import metrics
from twofold.fuse.tables.figures import UNTRAINED
from twofold.fuse.video.smoothing import smoothed, window
from twofold.fuse.video.submission import answered, template_keys, write_submission

UNCERTAIN = "uncertain"
WEIGHING = ("gated", "late")  #: heads that say how much each stream had to do with a decision
TEACHING_BASICS = ("paper", "zeroshot")  #: heads that predict the basic expression on the way


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of `predict`.

    top: name that many classes, the likeliest first; threshold: a face whose likeliest class has less is 'uncertain';
    smooth: box:N, gauss:S or none (interpolation alone), empty for single images; basic: the basic expression too;
    template: write the challenge's submission instead; fill: answer its videos that have no face at all.
    """

    top: int = 0
    threshold: float = 0.0
    smooth: str = ""
    basic: bool = False
    template: Path | None = None
    fill: bool = False

    def check(self, run: Run, out: Path) -> None:
        """Raises InputError now, rather than after an extraction, for what cannot be done with this run."""
        classes = run.taxonomy.classes
        window(self.smooth or "none")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g} is not a probability (0 to 1)")
        if not 0 <= self.top <= len(classes):
            raise InputError(f"--top {self.top}: the run has {len(classes)} classes")
        if self.basic and run.head.spec.kind not in TEACHING_BASICS:
            raise InputError(f"--basic: the head of {run.path} is {run.head.spec.kind!r}, which predicts no basic "
                             f"expression; {' and '.join(TEACHING_BASICS)} do")
        if self.template:
            template_keys(self.template, run.taxonomy)
            if self.top or self.threshold or self.basic:
                raise InputError("a submission has one class a row: leave out --top, --threshold and --basic")
        elif self.fill:
            raise InputError("--fill-videos goes with --submission TEMPLATE")
        if out.is_dir() or not out.parent.is_dir():
            raise InputError(f"{out}: cannot be written: {'it is a folder' if out.is_dir() else 'no such folder'}")


@dataclass(frozen=True)
class Block:
    """Some faces in order. scores (n, C), shares (n, K) of the streams, basic (n, 8): nan for faces without features.

    shares and basic have no columns for heads that know none.
    """

    keys: np.ndarray
    groups: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    basic: np.ndarray
    seen: np.ndarray  #: (n,) bool


@dataclass(frozen=True)
class Predicted:
    """What `predict` wrote. rows: all of the file; interpolated: those without a face of their own."""

    out: Path
    rows: int
    interpolated: int
    left_out: int
    calls: dict[str, int]
    notes: list[str]

    @property
    def exit_code(self) -> int:
        return 1 if self.left_out else 0

    def record(self) -> dict:
        return {"out": str(self.out), "rows": self.rows, "interpolated": self.interpolated, "left_out": self.left_out,
                "calls": self.calls, "notes": self.notes}

    def text(self) -> str:
        between = f", {self.interpolated} of them without a face and interpolated" if self.interpolated else ""
        lines = [f"{self.rows} rows{between} -> {self.out}"]
        lines += [f"{count:8}  {name}" for name, count in sorted(self.calls.items(), key=lambda one: -one[1])]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def predict(run: Run, store: Path, wish: Wish, *, out: Path, say: Callable[[str], None] = lambda text: None
            ) -> Predicted:
    """Predict every face of the store's manifest (of the template, if any) and write `out`, whole or not at all.

    Raises InputError if the store's features are of another recipe than the run's (another precision is only a note),
    or no face has features; CacheError if a backbone is missing.
    """
    wish.check(run, out)
    faces = Store(store)
    files = [matching_file(run, faces, backbone, view, recipe) for backbone, view, recipe in run.streams]
    notes = _notes(run, files)
    if wish.template:
        keys = np.array(template_keys(wish.template, run.taxonomy), object)
        groups = np.full(len(keys), "", object)
    else:
        table = read_manifest(faces.manifest_path).table
        keys, groups = table["key"].to_numpy(object), table["group"].to_numpy(object)
    places = _places(files, keys)
    have = (places >= 0).all(axis=1)
    if not have.any():
        raise InputError(f"{store}: none of the {len(keys)} faces has features of all backbones of {run.path}")
    for note in notes:
        say(f"warning: {note}")
    blocks = _blocks(run, files, keys, groups, places)
    if wish.template:
        return _submit(run, wish, out, blocks, notes)
    if wish.smooth:
        block, faceless = _smooth(_whole(blocks), window(wish.smooth))
        notes += [f"no face in {len(faceless)} videos, left out: {', '.join(faceless[:10])}"] if faceless else []
        blocks = iter([block])
    return _write(run, wish, out, blocks, notes, _failed(files, keys[~have]))


# ------------------------------------------------------------------------------------------------------- scores
def _places(files: Sequence[FeatureFile], keys: np.ndarray) -> np.ndarray:
    """(N, K) int32 place of each key in each file, -1 where it is not; holds the keys of one file at a time."""
    import pandas as pd

    return np.column_stack([pd.Index(FeatureFile(file.path).keys).get_indexer(keys).astype(np.int32) for file in files])


def _blocks(run: Run, files: Sequence[FeatureFile], keys: np.ndarray, groups: np.ndarray, places: np.ndarray
            ) -> Iterator[Block]:
    """The faces in order, `BLOCK_ROWS` at a time: of the features no more than one block is ever in memory."""
    widths = (len(run.taxonomy.classes), len(run.streams) if run.head.spec.kind in WEIGHING else 0,
              len(BASIC) if run.head.spec.kind in TEACHING_BASICS else 0)
    for start in range(0, len(keys), BLOCK_ROWS):
        some = places[start:start + BLOCK_ROWS]
        seen = (some >= 0).all(axis=1)
        found = [np.full((len(some), width), np.nan, np.float32) for width in widths]
        if seen.any():
            features = np.hstack([file.read_rows(some[seen, k]) for k, file in enumerate(files)])
            for values, part in zip(found, _forward(run, features), strict=True):
                values[seen] = part
        yield Block(keys[start:start + BLOCK_ROWS], groups[start:start + BLOCK_ROWS], *found, seen)


@torch.inference_mode()
def _forward(run: Run, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities, shares of the streams and basic probabilities (n, .), means over the members."""
    kind, parts = run.head.spec.kind, []
    for piece in torch.from_numpy(features).split(max(64, BLOCK_ROWS // run.head.spec.members)):
        output = run.head(piece)
        none = torch.empty(len(piece), 0)
        parts.append((
            output.logits.float().softmax(dim=-1).mean(dim=0),
            output.gates.float().mean(dim=0) if kind in WEIGHING else none,
            output.basic.float().softmax(dim=-1).mean(dim=0) if kind in TEACHING_BASICS else none))
    scores, shares, basic = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return metrics.tempered(scores, run.temperature), shares, basic


def _whole(blocks: Iterable[Block]) -> Block:
    every = list(blocks)
    return Block(*(np.concatenate([getattr(block, name) for block in every]) for name in Block.__dataclass_fields__))


def _smooth(block: Block, weights: np.ndarray) -> tuple[Block, list[str]]:
    """All rows with interpolated and smoothed scores (the basic ones, too), and the videos without any face."""
    scores, faceless = smoothed(block.scores, block.keys, block.groups, weights)
    basic = smoothed(block.basic, block.keys, block.groups, weights)[0] if block.basic.size else block.basic
    return replace(block, scores=scores, basic=basic), faceless


# -------------------------------------------------------------------------------------------------------- files
def _submit(run: Run, wish: Wish, out: Path, blocks: Iterator[Block], notes: list[str]) -> Predicted:
    block = _whole(blocks)
    scores = answered(block.scores, block.keys, window(wish.smooth or "none"), fill=wish.fill)
    calls = scores.argmax(axis=1)
    write_submission(wish.template, out, [run.taxonomy.numbers[call] for call in calls])
    counts = Counter(run.taxonomy.classes[call] for call in calls)
    return Predicted(out, len(calls), int((~block.seen).sum()), 0, dict(counts), notes)


def _write(run: Run, wish: Wish, out: Path, blocks: Iterator[Block], notes: list[str], failed: list[str]) -> Predicted:
    """The table: key, prediction, what else is wished, a probability a class, a share a stream."""
    classes, counts, rows, between, skipped = run.taxonomy.classes, Counter(), 0, 0, 0
    with published(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_header(run, wish))
        for block in blocks:
            kept = ~np.isnan(block.scores[:, 0])
            lines = [_line(block, row, wish, classes) for row in np.flatnonzero(kept)]
            counts.update(line[1] for line in lines)
            rows, skipped = rows + len(lines), skipped + int((~kept).sum())
            between += int((kept & ~block.seen).sum())
            writer.writerows(lines)
    if skipped:
        notes = [*notes, f"{skipped} faces have no features and are left out", *failed]
    return Predicted(out, rows, between, skipped, dict(counts), notes)


def _header(run: Run, wish: Wish) -> list[str]:
    streams = [backbone if view == "original" else f"{backbone} ({view})" for backbone, view, _ in run.streams]
    return ["key", "prediction", *(["face"] if wish.smooth else []), *(f"top{k + 1}" for k in range(wish.top)),
            *(["basic"] if wish.basic else []), *run.taxonomy.classes,
            *(f"share {name}" for name in streams if run.head.spec.kind in WEIGHING)]


def _line(block: Block, row: int, wish: Wish, classes: Sequence[str]) -> list[str]:
    scores = block.scores[row]
    order = np.argsort(-scores, kind="stable")
    call = classes[order[0]] if scores[order[0]] >= wish.threshold else UNCERTAIN
    return [block.keys[row], call, *(["yes" if block.seen[row] else "no"] if wish.smooth else []),
            *(classes[k] for k in order[:wish.top]), *([BASIC[block.basic[row].argmax()]] if wish.basic else []),
            *(f"{score:.6f}" for score in scores),
            *("" if np.isnan(share) else f"{share:.6f}" for share in block.shares[row])]


def _notes(run: Run, files: Sequence[FeatureFile]) -> list[str]:
    """What is to be said about the recipes: another precision, untrained weights."""
    notes = [f"{file.backbone}: other than what the run was trained on (there, here): "
             f"{spelled(differences(recipe, file.recipe))}"
             for file, (_, _, recipe) in zip(files, run.streams, strict=True) if file.fingerprint != recipe.fingerprint]
    return notes + ([UNTRAINED] if any(recipe.untrained for _, _, recipe in run.streams) else [])


def _failed(files: Sequence[FeatureFile], lacking: np.ndarray) -> list[str]:
    """Faces that could not be encoded, counted by reason."""
    reasons = Counter(next((file.failures[key] for file in files if key in file.failures), "not in the store")
                      for key in lacking)
    return [f"{count} x {reason}" for reason, count in reasons.most_common(5)]
