"""Who is who in a video: tracks by overlap and appearance, ended by cuts, and the persons that tracks are of."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from twofold.data.faces.detectors import Detection, iou
from twofold.data.utils.errors import InputError

MIN_IOU = 0.3  #: of a face's boxes in consecutive frames
SURE_IOU = 0.6  #: from which a face without rivals is taken for the one before, if it looks alike, without an embedding
MAX_GAP = 1.0  #: seconds after which a lost face does not continue its track
MAX_DISTANCE = 1.0  #: between a lost face and the one that continues its track, in widths of the face
MAX_RATIO = 1.6  #: of their sizes
MIN_LIKENESS = 0.9  #: correlation of a track's portraits in consecutive frames, below which somebody else may be there
REFRESH = 0.5  #: seconds between the embeddings of a track that nothing disputes
THRESHOLD = 0.4  #: least cosine similarity of one person, for MobileFaceNet: see data/MEASURED.md
MEASURED_WITH = "sha256:b7120c095d60094f28a4a54ba6a8bf51b297a6273fb40ef6350dfec1f63d9507"  #: the digest of its weights
PORTRAIT = 112  #: pixels, the side of what is embedded
#: five landmarks in it, where face-recognition networks are trained to have them (insightface's arcface_dst)
PORTRAIT_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
CUT_GRID = 24  #: samples a side by which consecutive frames are compared
CUT_LEVELS, CUT_RATIO = 14.0, 3.5  #: mean difference in grey levels of a cut; how often the median of those before
CUT_LEAST, CUT_MEMORY = 3, 25  #: frames of a shot that are compared before it can be cut, and that are remembered


@dataclass(frozen=True)
class IdentityModel:
    """A network that tells people apart. embed: portraits (N, 112, 112, 3) RGB uint8, the landmarks at PORTRAIT_POINTS,
    to (N, D); weights: their digest; threshold: least cosine similarity of one person; session: whether persons keep
    their numbers from file to file. Raises InputError for a threshold that is none."""

    name: str
    weights: str
    embed: Callable[[np.ndarray], np.ndarray]
    threshold: float = THRESHOLD
    session: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"same-person {self.threshold:g}: it is a cosine similarity: give a number above 0 and "
                             "below 1")

    def record(self) -> dict[str, object]:
        """What persons depend on beside the faces, for crop.json."""
        return {"name": self.name, "weights": self.weights, "threshold": self.threshold, "session": self.session}

    def text(self) -> str:
        """By what persons were told apart, for people to read."""
        among = "one number each in all files" if self.session else "numbered anew in each file"
        return f"{among}: {self.name}, cosine similarity of at least {self.threshold:g}"

    def units(self, portraits: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) float32 embeddings of length 1; zeros where the network gives no number."""
        return _units(np.nan_to_num(np.asarray(self.embed(np.stack(portraits)), np.float32)))


class CutFinder:
    """Finds cuts by the mean absolute difference of consecutive frames on a coarse grid: large, and several times as
    large as in the frames before, so that a moving camera is no cut. Fades are none."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._differences = deque[float](maxlen=CUT_MEMORY)

    def update(self, image: np.ndarray) -> bool:
        """Whether another shot begins with this frame, (H, W, 3) uint8."""
        height, width = image.shape[:2]
        small = image[::max(1, height // CUT_GRID), ::max(1, width // CUT_GRID)].astype(np.int16)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            return last is not None
        difference = float(np.abs(small - last).mean())
        is_cut = (len(self._differences) >= CUT_LEAST and difference > CUT_LEVELS
                  and difference > CUT_RATIO * median(self._differences))
        if is_cut:
            self._differences.clear()  # the next shot may move more
        else:
            self._differences.append(difference)
        return is_cut


@dataclass
class Track:
    """The last detection of a track. frame: its number among the frames used; look: its portrait, reduced to grey;
    embedded: seconds of its last embedding."""

    number: int
    box: tuple[float, ...]
    time: float
    frame: int
    look: np.ndarray | None = None
    embedded: float = 0.0


@dataclass
class Tracker:
    """Assigns a track number, from 0, to each face of each frame, in order of time. The largest overlaps are matched
    first, so that people side by side keep their tracks. A face without overlap may continue a nearby track that was
    lost at most `MAX_GAP` ago (or in the previous frame, where few frames are used).

    With a model, matches that are in doubt are decided by embeddings: where several faces and tracks overlap, where the
    boxes overlap little or after a gap, and where the face suddenly looks different. A cut ends all tracks.
    sums: of the embeddings of each track; together: pairs of tracks that were in one frame, which are two persons.
    """

    model: IdentityModel | None = None
    tracks: list[Track] = field(default_factory=list)
    frames: int = 0
    count: int = 0
    sums: dict[int, np.ndarray] = field(default_factory=dict)
    together: set[tuple[int, int]] = field(default_factory=set)

    def update(self, faces: Sequence[Detection], time: float, *, portraits: Sequence[np.ndarray] = (),
               cut: bool = False) -> list[int]:
        """The track numbers of one frame's faces, in their order. portraits: of the faces, where there is a model; cut:
        another shot begins with this frame."""
        self.frames += 1
        self.tracks = [track for track in self.tracks if not cut and (
            time - track.time <= MAX_GAP or self.frames - track.frame <= 1)]
        looks, embeddings = [reduced(portrait) for portrait in portraits], dict[int, np.ndarray]()

        def likeness(track: Track, place: int) -> float:
            if place not in embeddings and self.model:
                embeddings[place] = self.model.units([portraits[place]])[0]
            return _cosine(self.sums[track.number], embeddings[place])

        numbers = [-1] * len(faces)
        for closeness, least in ((iou, MIN_IOU), (_nearness, 0.0)):
            pairs = [(close, track, place) for track in self.tracks if track.frame < self.frames
                     for place, face in enumerate(faces) if numbers[place] < 0
                     and (close := closeness(track.box, face.box)) >= least and close > 0]
            if self.model:
                pairs = [(close + like, track, place) for close, track, place in pairs
                         if (like := 1.0 if self._is_sure(close, track, place, pairs, closeness is iou, looks)
                             else likeness(track, place)) >= self.model.threshold]
            for _, track, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1].number, pair[2])):
                if numbers[place] < 0 and track.frame < self.frames:
                    numbers[place] = track.number
                    track.box, track.time, track.frame = faces[place].box, time, self.frames
        for place, face in enumerate(faces):
            if numbers[place] < 0:
                numbers[place] = self.count
                self.tracks.append(Track(self.count, face.box, time, self.frames, embedded=-math.inf))
                self.count += 1
        if self.model:
            places = {number: place for place, number in enumerate(numbers)}
            for track in (track for track in self.tracks if track.frame == self.frames):
                place, track.look = places[track.number], looks[places[track.number]]
                if time - track.embedded >= REFRESH or place in embeddings:
                    self.sums.setdefault(track.number, np.zeros(1, np.float32))
                    if likeness(track, place) >= self.model.threshold or track.embedded == -math.inf:
                        self.sums[track.number] = self.sums[track.number] + embeddings[place]
                    track.embedded = time
            self.together.update((one, other) for one in numbers for other in numbers if one < other)
        return numbers

    def _is_sure(self, close: float, track: Track, place: int, pairs: Sequence[tuple[float, Track, int]],
                 by_overlap: bool, looks: Sequence[np.ndarray]) -> bool:
        """Whether a face continues a track beyond doubt."""
        rivals = sum(other is track or spot == place for _, other, spot in pairs) - 1
        return (by_overlap and not rivals and close >= SURE_IOU and track.frame == self.frames - 1
                and track.look is not None and float((track.look * looks[place]).sum()) >= MIN_LIKENESS)


def reduced(portrait: np.ndarray) -> np.ndarray:
    """(28, 28) float32 grey of a portrait, its mean 0 and its norm 1: the product of two sums to their correlation."""
    grey = portrait.reshape(28, 4, 28, 4, 3).mean(axis=(1, 3, 4), dtype=np.float32)
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def _nearness(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    """1 at the same place, 0 too far away or of another size."""
    sizes = math.sqrt(before[2] * before[3]), math.sqrt(now[2] * now[3])
    if not max(sizes) <= MAX_RATIO * min(sizes):
        return 0.0
    away = math.hypot(before[0] + before[2] / 2 - now[0] - now[2] / 2, before[1] + before[3] / 2 - now[1] - now[3] / 2)
    return max(0.0, 1 - away / (MAX_DISTANCE * max(before[2], now[2])))


class Gallery:
    """The persons of the files so far, each the sum of its embeddings."""

    def __init__(self) -> None:
        self.sums: dict[int, np.ndarray] = {}

    def add(self, persons: Mapping[int, np.ndarray]) -> None:
        """Take in the sums of a file's persons."""
        for person, total in persons.items():
            self.sums[person] = self.sums[person] + total if person in self.sums else total

    def persons(self, tracks: Mapping[int, np.ndarray], together: Iterable[tuple[int, int]], threshold: float
                ) -> dict[int, int]:
        """The person of each track: one of the gallery, or a new one, numbered from the first that is free in order of
        their first tracks. tracks: sums of their embeddings; together: pairs of tracks that are two persons.

        Agglomerative: the two most similar clusters of tracks are joined while the cosine similarity of their sums
        reaches the threshold; then each cluster, the most similar first, is given to its person of the gallery.
        """
        if not tracks:
            return {}
        row = {name: place for place, name in enumerate(sorted(tracks))}
        sums = np.array([tracks[name] for name in row], np.float32)
        barred = np.eye(len(row), dtype=bool)
        for one, other in together:
            barred[row[one], row[other]] = barred[row[other], row[one]] = True
        cluster = _joined(sums, barred, threshold)
        of_cluster: dict[int, int] = {}
        if self.sums:
            known, leads = list(self.sums), np.unique(cluster)
            table = _units(sums[leads]) @ _units(np.array([self.sums[person] for person in known])).T
            for place in np.argsort(-table, axis=None, kind="stable"):
                lead, person = int(leads[place // len(known)]), known[place % len(known)]
                if table.flat[place] < threshold:
                    break
                if lead not in of_cluster and not any(
                        barred[lead, other] for other, named in of_cluster.items() if named == person):
                    of_cluster[lead] = person
        free = max(self.sums, default=-1) + 1
        for lead in map(int, np.unique(cluster)):
            if lead not in of_cluster:
                of_cluster[lead], free = free, free + 1
        return {name: of_cluster[int(cluster[place])] for name, place in row.items()}


def _joined(sums: np.ndarray, barred: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) the first row of each row's cluster. sums: (N, D), barred: (N, N) pairs that are never joined; in both, the
    clusters' own stand in their first rows afterwards."""
    cluster, units = np.arange(len(sums)), _units(sums)
    table = np.where(barred, -np.inf, units @ units.T)
    best = table.argmax(axis=1)
    while (highest := table[np.arange(len(sums)), best]).max() >= threshold:
        one = int(highest.argmax())
        keep, gone = sorted((one, int(best[one])))
        cluster[cluster == gone] = keep
        sums[keep] += sums[gone]
        barred[keep] |= barred[gone]
        barred[:, keep] |= barred[:, gone]
        barred[gone] = barred[:, gone] = True
        units[keep] = _units(sums[keep:keep + 1])[0]
        table[gone] = table[:, gone] = -np.inf
        table[keep] = table[:, keep] = np.where(barred[keep], -np.inf, units @ units[keep])
        stale = np.flatnonzero((best == keep) | (best == gone))
        best = np.where(table[:, keep] > table[np.arange(len(sums)), best], keep, best)
        best[stale] = table[stale].argmax(axis=1)
        best[keep] = table[keep].argmax()
    return cluster


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
