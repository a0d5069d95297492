"""Link the faces of a video into tracks of one person each, by their boxes in consecutive frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from twofold.data.faces.detectors import Detection, iou

MIN_IOU = 0.3  #: of a face's boxes in consecutive frames
MAX_GAP = 1.0  #: seconds after which a lost face does not continue its track
MAX_DISTANCE = 1.0  #: between a lost face and the one that continues its track, in widths of the face
MAX_RATIO = 1.6  #: of their sizes


@dataclass
class Track:
    """The last detection of a track. frame: its number among the frames used."""

    number: int
    box: tuple[float, ...]
    time: float
    frame: int


@dataclass
class Tracker:
    """Assigns a track number, from 0, to each face of each frame, in order of time. The largest overlaps are matched
    first, so that people side by side keep their tracks. A face without overlap may continue a nearby track that was
    lost at most `MAX_GAP` ago (or in the previous frame, where few frames are used)."""

    tracks: list[Track] = field(default_factory=list)
    frames: int = 0
    count: int = 0

    def update(self, faces: Sequence[Detection], time: float) -> list[int]:
        """The track numbers of one frame's faces, in their order."""
        self.frames += 1
        self.tracks = [track for track in self.tracks if time - track.time <= MAX_GAP or self.frames - track.frame <= 1]
        numbers = [-1] * len(faces)
        for closeness, least in ((iou, MIN_IOU), (_nearness, 0.0)):
            pairs = [(close, track, place) for track in self.tracks for place, face in enumerate(faces)
                     if (close := closeness(track.box, face.box)) >= least and close > 0]
            for _, track, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1].number, pair[2])):
                if numbers[place] < 0 and track.frame < self.frames:
                    numbers[place] = track.number
                    track.box, track.time, track.frame = faces[place].box, time, self.frames
        for place, face in enumerate(faces):
            if numbers[place] < 0:
                numbers[place] = self.count
                self.tracks.append(Track(self.count, face.box, time, self.frames))
                self.count += 1
        return numbers


def _nearness(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    """1 at the same place, 0 too far away or of another size."""
    sizes = math.sqrt(before[2] * before[3]), math.sqrt(now[2] * now[3])
    if not max(sizes) <= MAX_RATIO * min(sizes):
        return 0.0
    away = math.hypot(before[0] + before[2] / 2 - now[0] - now[2] / 2, before[1] + before[3] / 2 - now[1] - now[3] / 2)
    return max(0.0, 1 - away / (MAX_DISTANCE * max(before[2], now[2])))
