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

from twofold.data.images.decode import REMARKS, ImageError, decode, remark_lines
from twofold.data.images.sources import ImageRoots
from twofold.data.manifest import Manifest
from twofold.data.targets import summary_lines
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
MEANINGS = {"exact duplicates": "the same bytes",
            "near-duplicates": f"hashes within {COARSE} of 64 and {FINE} of 256 bits", "groups": "column group"}
#: of an image file: difference hashes of 8 x 8 and 16 x 16 bits; shows: not too flat to compare; reason: why it cannot
#: be read, empty where it was; remarks: of the decoder
FINGERPRINT = np.dtype([("sha256", "u8", 4), ("coarse", "u8"), ("fine", "u8", 4), ("shows", bool), ("reason", object),
                        ("remarks", object)])


@dataclass(frozen=True)
class Sets:
    """Sets of samples that belong together, and what is wrong within a set."""

    sets: int
    samples: int
    crossing: list[str]  #: sets that are in several splits, an example each
    disagreeing: list[str]  #: sets with different labels


@dataclass(frozen=True)
class Findings:
    """The outcome of a check. unreadable: keys by reason; sets: by the names in `MEANINGS`; remarks: of the decoder.

    same (N,): the first row of each sample's set of (near-)identical pictures.
    """

    manifest: Manifest
    unreadable: dict[str, list[str]]
    sets: dict[str, Sets]
    same: np.ndarray
    remarks: Counter[str]

    @property
    def leaks(self) -> bool:
        return any(summary.crossing for summary in self.sets.values())

    @property
    def exit_code(self) -> int:
        """1 if images cannot be read, or the splits leak; else 0."""
        return int(bool(self.unreadable) or self.leaks)

    def text(self) -> str:
        """All findings, a line or a few each."""
        table = self.manifest.table
        rows = [f"{len(table):,} samples", *summary_lines(self.manifest, labels=())]
        for name in LABELS:
            labelled = table[table[name] != ""]
            if len(labelled):
                counts = pd.crosstab(labelled[name], labelled["split"].replace("", "(none)"))
                rows += ["", *counts.rename_axis(index=None, columns=name).to_string().splitlines()]
        rows += ["", *([] if self.unreadable else ["every image can be read"])]
        for reason, keys in self.unreadable.items():
            more = ", ..." if len(keys) > MAX_EXAMPLES else ""
            rows.append(f"{len(keys):,} samples: {reason} ({', '.join(keys[:MAX_EXAMPLES])}{more})")
        rows += [*remark_lines(self.remarks), *ambiguous_keys(self.manifest.keys)]
        for name, summary in self.sets.items():
            count = f"{summary.sets:,} sets of {summary.samples:,} samples" if summary.sets else "none"
            rows.append(f"{name}: {count} ({MEANINGS[name]})")
            for what, examples in (("are in several splits", summary.crossing),
                                   ("have different labels", summary.disagreeing)):
                if examples:
                    rows += [f"  {len(examples):,} sets {what}", *(f"    {each}" for each in examples[:MAX_EXAMPLES])]
        if self.leaks:
            rows.append("the splits leak: `manifest check ... --group-duplicates -o GROUPED.csv` writes the sets into "
                        "the column group, then `manifest split GROUPED.csv` splits anew by group")
        return "\n".join(rows)

    def record(self) -> dict:
        """The findings by name, for a program."""
        return {"samples": len(self.manifest), "unreadable": self.unreadable,
                "remarks": dict(self.remarks),
                "ambiguous_keys": ambiguous_keys(self.manifest.keys),
                **{name.replace("-", "_").replace(" ", "_"): {
                    "sets": summary.sets, "samples": summary.samples, "crossing_splits": len(summary.crossing),
                    "different_labels": len(summary.disagreeing)} for name, summary in self.sets.items()},
                "threshold": {"coarse": [COARSE, 64], "fine": [FINE, 256]}}


def check_manifest(
    manifest: Manifest, images: ImageRoots, *, workers: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Findings:
    """Read every image and compare it with all others; see `fingerprint_images` for workers and progress."""
    prints = fingerprint_images(manifest.keys, images, workers=workers, progress=progress)
    failed = manifest.table["key"].groupby(prints["reason"])
    table = manifest.table[["key", "split", *LABELS]]

    def sets(heads: np.ndarray, labels: Sequence[str] = LABELS, member: np.ndarray | None = None) -> Sets:
        """Those with more than one sample (more than one of `member`, where given)."""
        rows = table.assign(head=heads, member=np.arange(len(table)) if member is None else member)
        rows = rows[rows.groupby("head")["member"].transform("nunique") > 1]
        return Sets(int(rows["head"].nunique()), len(rows), _differing(rows, ["split"]), _differing(rows, labels))

    same, same_bytes = near_duplicates(prints), exact_duplicates(prints)
    summaries = (sets(same_bytes), sets(same, member=same_bytes), sets(_group_heads(manifest), labels=()))
    return Findings(manifest, {str(reason): keys.tolist() for reason, keys in failed if reason},
                    dict(zip(MEANINGS, summaries, strict=True)), same, sum(prints["remarks"], Counter()))


def group_duplicates(findings: Findings) -> Manifest:
    """The checked manifest, each set of (near-)identical pictures in one group; sets that share a group are joined."""
    table = findings.manifest.table
    groups, rows = table["group"], np.arange(len(table))
    heads = components(len(rows), np.tile(rows, 2), np.concatenate([findings.same, _group_heads(findings.manifest)]))
    named = groups.where(groups != "").groupby(heads).transform("first")
    named = named.fillna(pd.Series([f"same{head:07d}" for head in heads]))
    return Manifest(table.assign(group=named.where(np.bincount(heads)[heads] > 1, groups)))


def _group_heads(manifest: Manifest) -> np.ndarray:
    """(N,) the first row of each sample's group."""
    groups = manifest.table["group"]
    return _first_alike(pd.factorize(groups)[0][:, None], (groups != "").to_numpy())


def _differing(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The sets with two values in one of the columns, empty ones aside, as two samples that differ."""
    examples: dict[int, str] = {}
    for column in reversed(columns):
        rows = table[table[column] != ""].drop_duplicates(["head", column]).groupby("head")
        pairs = rows.nth(1).merge(rows.nth(0), on="head")[["head", "key_y", f"{column}_y", "key_x", f"{column}_x"]]
        examples |= {head: f"{a} ({one}) = {b} ({other})" for head, a, one, b, other in pairs.itertuples(index=False)}
    return [examples[head] for head in sorted(examples)]


def fingerprint_images(
    keys: Sequence[str], images: ImageRoots, *, workers: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """(N,) of `FINGERPRINT`, on `workers` processes (0: one a core); `progress` gets how many are done.

    The difference hash is one bit for each pixel of a small grey copy: brighter than its left neighbour or not
    (N. Krawetz, "Kind of like that", 2013).
    """
    workers, rows = workers or usable_cores(), []
    several = workers > 1 and len(keys) > FEW
    with ProcessPoolExecutor(workers, CONTEXT) if several else nullcontext() as pool:
        each = partial(_fingerprint, images=images)
        for row in pool.map(each, keys, chunksize=128) if pool else map(each, keys):
            rows.append(row)
            progress(1)
    return np.array(rows, FINGERPRINT)


def _fingerprint(key: str, images: ImageRoots) -> tuple:
    try:
        content = images.read(key)
        image = decode(content, images.limits)
    except ImageError as error:
        return (0,) * 4, 0, (0,) * 4, False, str(error), Counter()
    grey, remarks = image.convert("L"), image.info[REMARKS]
    hashes = []
    for side in (8, 16):
        small = np.asarray(grey.resize((side + 1, side), Image.Resampling.BOX), np.int16)
        hashes.append(tuple(np.packbits(small[:, 1:] > small[:, :-1]).view("u8")))
    shows = np.asarray(grey.resize((16, 16), Image.Resampling.BOX)).std() >= FLAT
    return tuple(np.frombuffer(hashlib.sha256(content).digest(), "u8")), *hashes[0], hashes[1], shows, "", remarks


def exact_duplicates(prints: np.ndarray) -> np.ndarray:
    """(N,) the first row with the same bytes; unreadable files are like none but themselves."""
    return _first_alike(prints["sha256"], prints["reason"] == "")


def near_duplicates(prints: np.ndarray) -> np.ndarray:
    """(N,) the first row of each set of (near-)identical pictures; sets are closed under being alike.

    Two pictures are alike if their coarse hashes differ in at most 6 of 64 bits and their fine ones in at most 32 of
    256. On 5,564 faces of FER2013 all 741 known pairs are found, and 423 more that are one photograph, too, seen by
    eye; the first strangers differ in 34 bits. Of two hashes that differ in at most 6 bits, one of 7 bands of bits is
    equal, so only images that share a band are compared (300,000 images in 16 s on one core).
    """
    rows = np.arange(len(prints))
    alike = _first_alike(np.column_stack([prints["coarse"], prints["fine"]]), prints["shows"])
    kept = np.flatnonzero((alike == rows) & prints["shows"])
    coarse, fine = prints["coarse"][kept], prints["fine"][kept]
    parents, edges = exact_duplicates(prints), [(rows, alike)]
    for band in range(BANDS):
        mask = np.uint64(sum(1 << bit for bit in range(band, 64, BANDS)))
        edges += [(rows, parents), *((kept[a], kept[b]) for a, b in _pairs(coarse, fine, coarse & mask))]
        parents = components(len(rows), *map(np.concatenate, zip(*edges, strict=True)))
        edges = []
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
