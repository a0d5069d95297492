"""Faces of one video linked into tracks: the same person, as far as places in neighbouring frames tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from twofold.data.faces.detect import Detection, overlap

LEAST_OVERLAP = 0.3  #: intersection over union of a face's boxes in frames that follow each other
GAP_SECONDS = 1.0  #: a face lost for no longer is the same when it comes back near where it was
REACH = 1.0  #: how far from there, in widths of the face
ALIKE = 1.6  #: how much larger or smaller it may have become


@dataclass
class Track:
    """The last that was seen of somebody."""

    number: int
    box: tuple[float, ...]
    time: float
    look: int  #: which of the frames looked at


@dataclass
class Tracker:
    """Gives each face of each frame, in order of time, the number of its track; numbers count from 0.

    Overlaps are taken largest first, so that people side by side keep their own; what overlaps no track may still be
    one that was lost a moment ago (or in the frame before, where few frames are looked at) and is near.
    """

    tracks: list[Track] = field(default_factory=list)
    looks: int = 0
    begun: int = 0

    def update(self, faces: Sequence[Detection], time: float) -> list[int]:
        """The tracks of one frame's faces, in their order."""
        self.looks += 1
        self.tracks = [track for track in self.tracks
                       if time - track.time <= GAP_SECONDS or self.looks - track.look <= 1]
        numbers = [-1] * len(faces)
        for closeness in (_overlapping, _near):
            pairs = [(closeness(track.box, face.box), track.number, place) for track in self.tracks
                     for place, face in enumerate(faces) if track.look < self.looks and numbers[place] < 0]
            for close, number, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
                track = next(track for track in self.tracks if track.number == number)
                if close > 0 and numbers[place] < 0 and track.look < self.looks:
                    numbers[place] = number
                    track.box, track.time, track.look = faces[place].box, time, self.looks
        for place, face in enumerate(faces):
            if numbers[place] < 0:
                numbers[place] = self.begun
                self.tracks.append(Track(self.begun, face.box, time, self.looks))
                self.begun += 1
        return numbers


def _overlapping(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    share = overlap(before, now)
    return share if share >= LEAST_OVERLAP else 0.0


def _near(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    """1 in the same place, 0 out of reach or of another size."""
    sizes = math.sqrt(before[2] * before[3]), math.sqrt(now[2] * now[3])
    if not max(sizes) <= ALIKE * min(sizes):
        return 0.0
    away = math.hypot(before[0] + before[2] / 2 - now[0] - now[2] / 2, before[1] + before[3] / 2 - now[1] - now[3] / 2)
    return max(0.0, 1 - away / (REACH * max(before[2], now[2])))
