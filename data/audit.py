"""Check a manifest and its images: missing and damaged files, duplicates, leakage across splits, labels."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image

from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import ImageRoots
from twofold.data.manifest import Manifest, summary_lines
from twofold.data.utils.keys import ambiguous_keys
from twofold.data.utils.machine import usable_cores
from twofold.data.utils.processes import CONTEXT

MAX_EXAMPLES = 3  #: per finding
LABELS = ("basic", "compound")
FLAT = 2.0  #: standard deviation of grey levels below which a picture shows nothing to compare
FEW = 4000  #: images that are hashed sooner than processes start
COARSE, FINE = 6, 32  #: bits of 64 and of 256 in which the hashes of near-duplicates may differ, see `near_duplicates`
BANDS = COARSE + 1
MAX_PAIRS = 1 << 22  #: compared at once


@dataclass(frozen=True)
class Sets:
    """Sets of samples that belong together, and what is wrong within a set."""

    sets: int
    samples: int
    crossing: tuple[str, ...]  #: sets that are in several splits, an example each
    disagreeing: tuple[str, ...]  #: sets with different labels

    def record(self) -> dict[str, int]:
        return {"sets": self.sets, "samples": self.samples, "crossing_splits": len(self.crossing),
                "different_labels": len(self.disagreeing)}

    def lines(self, name: str, meaning: str) -> list[str]:
        if not self.sets:
            return [f"{name}: none ({meaning})"]
        rows = [f"{name}: {self.sets:,} sets of {self.samples:,} samples ({meaning})"]
        for what, found in (("are in several splits", self.crossing), ("have different labels", self.disagreeing)):
            if found:
                rows += [f"  {len(found):,} sets {what}", *(f"    {example}" for example in found[:MAX_EXAMPLES])]
        return rows


@dataclass(frozen=True)
class Findings:
    """The outcome of a check. `same` (N,) is the first row of each sample's set of (near-)identical pictures."""

    manifest: Manifest
    ambiguous_keys: tuple[str, ...]  #: a sentence on keys that some systems take for one file
    unreadable: dict[str, tuple[str, ...]]  #: reason to keys
    exact: Sets
    near: Sets
    groups: Sets
    same: np.ndarray

    @property
    def exit_code(self) -> int:
        """1 if images cannot be read, or the splits leak; else 0."""
        return int(bool(self.unreadable) or self._leaks())

    def _leaks(self) -> bool:
        return any(sets.crossing for sets in (self.exact, self.near, self.groups))

    def text(self) -> str:
        """All findings, a line or a few each."""
        unreadable = [f"{len(keys):,} samples: {reason} ({', '.join(keys[:MAX_EXAMPLES])}"
                      f"{', ...' if len(keys) > MAX_EXAMPLES else ''})" for reason, keys in self.unreadable.items()]
        advice = ["the splits leak: `manifest check ... --group-duplicates -o GROUPED.csv` writes the sets into the "
                  "column group, then `manifest split GROUPED.csv` splits anew by group"] if self._leaks() else []
        return "\n".join([
            f"{len(self.manifest):,} samples", *summary_lines(self.manifest, labels=()), *_class_lines(self.manifest),
            "", *(unreadable or ["every image can be read"]), *self.ambiguous_keys,
            *self.exact.lines("exact duplicates", "the same bytes"),
            *self.near.lines("near-duplicates", f"hashes within {COARSE} of 64 and {FINE} of 256 bits"),
            *self.groups.lines("groups", "column group"), *advice])

    def record(self) -> dict:
        """The findings by name, for a program."""
        return {"samples": len(self.manifest),
                "unreadable": {name: list(keys) for name, keys in self.unreadable.items()},
                "ambiguous_keys": list(self.ambiguous_keys), "exact_duplicates": self.exact.record(),
                "near_duplicates": self.near.record(), "groups": self.groups.record(),
                "threshold": {"coarse": [COARSE, 64], "fine": [FINE, 256]}}


def check_manifest(
    manifest: Manifest, images: ImageRoots, *, workers: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Findings:
    """Read every image and compare it with all others; see `fingerprint_images` for workers and progress."""
    prints = fingerprint_images(manifest.keys, images, workers=workers, progress=progress)
    unreadable = {reason: tuple(key for key, why in zip(manifest.keys, prints.reasons, strict=True) if why == reason)
                  for reason in sorted(Counter(prints.reasons[prints.reasons != ""]))}
    same, same_bytes = near_duplicates(prints), exact_duplicates(prints)
    groups = manifest.table["group"]
    first = groups.drop_duplicates().reset_index().set_index("group")["index"]
    grouped = np.where(groups == "", np.arange(len(manifest)), groups.map(first).to_numpy())
    return Findings(manifest, ambiguous_keys(manifest.keys), unreadable, exact=_sets(manifest, same_bytes),
                    near=_sets(manifest, same, beyond=same_bytes), groups=_sets(manifest, grouped, labels=()),
                    same=same)


def group_duplicates(findings: Findings) -> Manifest:
    """The checked manifest, each set of (near-)identical pictures in one group; sets that share a group are joined."""
    table = findings.manifest.table
    names = table["group"].tolist()
    rows, first = np.arange(len(names)), {}
    own = np.array([first.setdefault(name, row) if name else row for row, name in enumerate(names)], int)
    joined = components(len(names), np.concatenate([rows, rows]), np.concatenate([findings.same, own]))
    size = np.bincount(joined, minlength=len(names))
    name_of: dict[int, str] = {}
    for row, name in enumerate(names):
        if name:
            name_of.setdefault(joined[row], name)
    groups = [name_of.get(head, f"same{head:07d}") if size[head] > 1 else names[row] for row, head in enumerate(joined)]
    return Manifest(table.assign(group=groups))


def _sets(
    manifest: Manifest, heads: np.ndarray, *, beyond: np.ndarray | None = None, labels: tuple[str, ...] = LABELS,
) -> Sets:
    """The sets with more than one sample (more than one of `beyond`, where given) and what is wrong in them."""
    table = manifest.table[["key", "split", "basic", "compound"]].assign(head=heads)
    table["member"] = np.arange(len(table)) if beyond is None else beyond
    table = table[table.groupby("head")["member"].transform("nunique") > 1]
    return Sets(int(table["head"].nunique()), len(table), _differing(table, ("split",)), _differing(table, labels))


def _differing(table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The sets with two values in one of the columns, empty ones aside, as two samples that differ."""
    examples: dict[int, str] = {}
    for column in reversed(columns):
        rows = table[table[column] != ""].drop_duplicates(["head", column]).groupby("head")
        pairs = rows.nth(1).merge(rows.nth(0), on="head")[["head", "key_y", f"{column}_y", "key_x", f"{column}_x"]]
        examples |= {head: f"{a} ({one}) = {b} ({other})" for head, a, one, b, other in pairs.itertuples(index=False)}
    return tuple(examples[head] for head in sorted(examples))


def _class_lines(manifest: Manifest) -> list[str]:
    """Samples by class and split, a line per class."""
    rows = []
    for name in LABELS:
        table = manifest.table[manifest.table[name] != ""]
        if len(table):
            cross = pd.crosstab(table[name], table["split"].replace("", "(none)"))
            rows += ["", *cross.rename_axis(index=None, columns=name).to_string().splitlines()]
    return rows


@dataclass(frozen=True)
class Fingerprints:
    """N image files in order; a file that cannot be read has a reason and zeros elsewhere."""

    sha256: np.ndarray  #: (N, 32) uint8
    coarse: np.ndarray  #: (N,) uint64, difference hash of 8 x 8 bits
    fine: np.ndarray  #: (N, 4) uint64, difference hash of 16 x 16 bits
    shows: np.ndarray  #: (N,) bool, false for pictures too flat to compare by eye
    reasons: np.ndarray  #: (N,) text, empty where the file was read

    def __len__(self) -> int:
        return len(self.reasons)


def fingerprint_images(
    keys: Sequence[str], images: ImageRoots, *, workers: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Fingerprints:
    """Read and hash every image, on `workers` processes (0: one a core); `progress` gets how many are done.

    The difference hash is one bit for each pixel of a small grey copy: brighter than its left neighbour or not
    (N. Krawetz, "Kind of like that", 2013).
    """
    workers = workers or usable_cores()
    size = min(2048, max(64, len(keys) // (workers * 8))) if len(keys) > FEW else 256
    chunks = [keys[place:place + size] for place in range(0, len(keys), size)]
    parts, several = [], workers > 1 and len(keys) > FEW
    with ProcessPoolExecutor(workers, CONTEXT) if several else nullcontext() as pool:
        for part in (pool.map if pool else map)(partial(_chunk, images=images), chunks):
            parts.append(part)
            progress(len(part))
    return Fingerprints(*(np.concatenate([getattr(part, name) for part in parts]) if parts else empty
                          for name, empty in vars(_empty(0)).items()))


def difference_hash(grey: Image.Image, side: int) -> np.ndarray:
    """(side * side,) bool of a grey picture, side even."""
    small = np.asarray(grey.resize((side + 1, side), Image.Resampling.BOX), np.int16)
    return (small[:, 1:] > small[:, :-1]).ravel()


def _empty(count: int) -> Fingerprints:
    return Fingerprints(np.zeros((count, 32), np.uint8), np.zeros(count, np.uint64), np.zeros((count, 4), np.uint64),
                        np.zeros(count, bool), np.full(count, "", object))


def _chunk(keys: Sequence[str], images: ImageRoots) -> Fingerprints:
    prints = _empty(len(keys))
    for row, key in enumerate(keys):
        try:
            content = images.read(key)
            grey = decode(content, images.limits).convert("L")
        except ImageError as error:
            prints.reasons[row] = str(error)
            continue
        prints.sha256[row] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        prints.coarse[row] = np.packbits(difference_hash(grey, 8)).view(np.uint64)[0]
        prints.fine[row] = np.packbits(difference_hash(grey, 16)).view(np.uint64)
        prints.shows[row] = np.asarray(grey.resize((16, 16), Image.Resampling.BOX)).std() >= FLAT
    return prints


def exact_duplicates(prints: Fingerprints) -> np.ndarray:
    """(N,) the first row with the same bytes; unreadable files are like none but themselves."""
    return _first_alike(prints.sha256.view(np.uint64), prints.reasons == "")


def near_duplicates(prints: Fingerprints) -> np.ndarray:
    """(N,) the first row of each set of (near-)identical pictures; sets are closed under being alike.

    Two pictures are alike if their coarse hashes differ in at most 6 of 64 bits and their fine ones in at most 32 of
    256. Evidence, on 5,564 faces of FER2013: all 741 known pairs are found; another 423 are, and in all of the 117
    sets these make it is one photograph, seen by eye, with a watermark, another crop or brightness. The first
    strangers differ in 34 bits of 256. Of two hashes that differ in at most 6 bits, one of 7 bands of bits is equal,
    so only images that share a band are compared: few of all pairs (300,000 images in 16 s on one core).
    """
    rows = np.arange(len(prints))
    alike = _first_alike(np.column_stack([prints.coarse, prints.fine]), prints.shows & (prints.reasons == ""))
    parents = np.minimum(exact_duplicates(prints), alike)
    kept = np.flatnonzero((alike == rows) & prints.shows)
    coarse, fine = prints.coarse[kept], prints.fine[kept]
    edges = [(rows, parents), (rows, alike)]
    for band in range(BANDS):
        mask = np.uint64(sum(1 << bit for bit in range(band, 64, BANDS)))
        edges += [(kept[a], kept[b]) for a, b in _pairs(coarse, fine, coarse & mask)]
        parents = components(len(rows), np.concatenate([a for a, _ in edges]), np.concatenate([b for _, b in edges]))
        edges = [(rows, parents)]
    return parents


def components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(count,) the smallest row that each row is connected with, through the edges a - b."""
    parents = np.arange(count)
    while True:
        low = np.minimum(parents[a], parents[b])
        before = parents.copy()
        for side in (a, b):
            np.minimum.at(parents, side, low)
            np.minimum.at(parents, before[side], low)
        parents = parents[parents]
        if np.array_equal(parents, before):
            return parents


def _first_alike(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(N,) the first valid row with the same values (N, K); rows that are not valid stand for themselves."""
    first = np.arange(len(values))
    rows = np.flatnonzero(valid)
    _, starts, inverse = np.unique(values[rows], axis=0, return_index=True, return_inverse=True)
    first[rows] = rows[starts][inverse.ravel()]
    return first


def _pairs(coarse: np.ndarray, fine: np.ndarray, band: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of alike rows among those with equal `band`, as two arrays of places, block by block."""
    order = np.argsort(band, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
        step = max(1, MAX_PAIRS // max(1, len(rows)))
        for place in range(0, len(rows) - 1, step):
            left, right = rows[place:place + step], rows[place:]
            a, b = np.nonzero(np.bitwise_count(coarse[left][:, None] ^ coarse[right][None]) <= COARSE)
            a, b = left[a], right[b]
            close = (a != b) & (np.bitwise_count(fine[a] ^ fine[b]).sum(axis=1) <= FINE)
            if close.any():
                yield a[close], b[close]
