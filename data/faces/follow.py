"""Follow faces from a frame to the next ones by optical flow, so that the detector need not look at each of them."""

from dataclasses import replace

import numpy as np

from twofold.data.faces.align import TEMPLATE, similarity
from twofold.data.faces.detectors import Detection, require_opencv

SIDE = 48  #: pixels of a face's longer side, at which it is followed
AROUND = 0.5  #: how far a face may move, in shares of its longer side
#: (49, 2) points that are followed, over the middle of the box, in shares of its sides
PLACES = np.stack(np.meshgrid(*2 * [np.linspace(0.15, 0.85, 7)]), axis=-1).reshape(-1, 2)
MAX_RETURN = 0.5  #: pixels at SIDE by which a point may miss its place when it is followed back
MIN_POINTS = 0.6  #: share of the points that must be followed
MAX_MISS = 1.5  #: pixels at SIDE between a point and where the face as a whole has moved it
MAX_GROWTH = 1.15  #: of a face from one frame to the next
MIN_LIKENESS = 0.8  #: correlation of the face with what it was in the frame where it was detected


class Follower:
    """Follows the faces of one frame, (H, W, 3) BGR uint8, through the frames after it, by one similarity each: a crop
    depends on no more of the landmarks. Scores stay those of the detector."""

    def __init__(self, image: np.ndarray, faces: list[Detection]):
        self._image, self._faces = image, faces
        self._looks: dict[int, np.ndarray] = {}  # of each face in the frame where it was detected

    def follow(self, image: np.ndarray) -> list[Detection] | None:
        """The faces in the next frame, the largest first; None where one of them was lost: detect them anew."""
        moved = []
        for number, face in enumerate(self._faces):
            match = _moved(self._image, image, face, self._looks.get(number))
            if match is None:
                return None
            moved.append(match[0])
            self._looks[number] = match[1]
        self._image, self._faces = image, moved
        return sorted(moved, key=lambda face: (-face.box[2] * face.box[3], face.box))


def _moved(before: np.ndarray, after: np.ndarray, face: Detection, look: np.ndarray | None
           ) -> tuple[Detection, np.ndarray] | None:
    """The face in the frame after, and its look where it was detected: `look`, or, if that is None, that of the frame
    before. None where it cannot be followed: pyramidal Lucas-Kanade (J.-Y. Bouguet 2001) of a grid of points, there and
    back (Z. Kalal et al., ICPR 2010)."""
    cv2 = require_opencv()
    x, y, width, height = face.box
    longer = max(width, height)
    if before.shape != after.shape:
        return None
    left, top = (max(0, int(place - AROUND * longer)) for place in (x, y))
    right, bottom = int(x + width + AROUND * longer) + 1, int(y + height + AROUND * longer) + 1
    step = max(1, int(longer / (2 * SIDE)))  # of a large face, not every pixel
    pieces = [cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2GRAY)[::step, ::step]
              for image in (before, after)]
    rows, columns = pieces[0].shape
    scale = SIDE * step / longer
    small = max(1, round(columns * scale)), max(1, round(rows * scale))
    if min(small) < SIDE // 2:
        return None
    old, new = (cv2.resize(piece, small, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
                for piece in pieces)
    factor, corner = np.array(small) / (columns * step, rows * step), np.array([left, top])
    grid = PLACES * (width, height) + (x, y)
    points = ((grid - corner) * factor).astype(np.float32)[:, None]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)
    ahead, status, _ = cv2.calcOpticalFlowPyrLK(old, new, points, points.copy(), winSize=(11, 11), maxLevel=2,
                                               criteria=criteria)
    back, status_back, _ = cv2.calcOpticalFlowPyrLK(new, old, ahead, ahead.copy(), winSize=(11, 11), maxLevel=2,
                                                 criteria=criteria)
    valid = ((status == 1) & (status_back == 1))[:, 0] & (np.linalg.norm(back - points, axis=2)[:, 0] <= MAX_RETURN)
    if valid.sum() < MIN_POINTS * len(points):
        return None
    start, end = grid[valid], ahead[valid, 0] / factor + corner
    matrix = similarity(start, end)
    fits = np.linalg.norm(start @ matrix[:, :2].T + matrix[:, 2] - end, axis=1) * factor[0] <= MAX_MISS
    if fits.sum() < MIN_POINTS * len(points):
        return None
    matrix = similarity(start[fits], end[fits])  # without the points that move otherwise, such as those of the lips
    growth = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    centre = matrix[:, :2] @ (x + width / 2, y + height / 2) + matrix[:, 2]
    if not 1 / MAX_GROWTH <= growth <= MAX_GROWTH or not (
            0 <= centre[0] < after.shape[1] and 0 <= centre[1] < after.shape[0]):
        return None
    size = growth * np.array([width, height])
    landmarks = np.array(face.landmarks) @ matrix[:, :2].T + matrix[:, 2]
    now = replace(face, box=(*(centre - size / 2).tolist(), *size.tolist()),
                  landmarks=tuple((float(a), float(b)) for a, b in landmarks))
    start, end = ((np.array(each.landmarks) - corner) * factor for each in (face, now))
    look = _look(old, start) if look is None else look
    return (now, look) if float((look * _look(new, end)).sum()) >= MIN_LIKENESS else None


def _look(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(16, 16) float32 grey of a face of an (H, W) image, aligned by its (5, 2) landmarks, its mean 0, its norm 1."""
    grey = require_opencv().warpAffine(image, similarity(landmarks, 0.16 * np.array(TEMPLATE)), (16, 16))
    grey = grey - grey.mean(dtype=np.float32)
    return grey / max(float(np.linalg.norm(grey)), 1e-6)
