"""Who is who from frame to frame."""

import pytest

from twofold.data.faces.detectors import Detection
from twofold.data.faces.identity import Tracker


@pytest.mark.parametrize("frames, fps, expected", [
    ([[0, 100], [104, 3], [8, 96], [90, 12]], 25, [[0, 1], [1, 0], [0, 1], [1, 0]]),  # side by side, in any order
    ([[0], [2, 200], [4, 202]], 25, [[0], [0, 1], [0, 1]]),  # one more person
    ([[0, 30], [16, 28]], 25, [[0, 1], [0, 1]]),  # the larger overlap wins where boxes cross
    ([[0]] + [[]] * 20 + [[25]], 25, [[0]] + [[]] * 20 + [[0]]),  # a short gap is bridged
    ([[0]] + [[]] * 30 + [[0]], 25, [[0]] + [[]] * 30 + [[1]]),  # a long one is not
    ([[0], [], [100]], 25, [[0], [], [1]]),  # somebody far away
    ([[(0, 40)], [], [(0, 80)]], 25, [[0], [], [1]]),  # or of another size
    ([[0], [10], [20]], 0.2, [[0], [0], [0]]),  # few frames a second
    ([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 0, 0, 0]], 25, [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3, 4]]),
])
def test_faces_keep_the_numbers_of_their_people(frames, fps, expected):
    tracker, found = Tracker(), []
    for number, places in enumerate(frames):
        boxes = [place if isinstance(place, tuple) else (place, 40) for place in places]
        faces = [Detection((x, 0, side, side), ((0.0, 0.0),) * 5, 0.9) for x, side in boxes]
        found.append(tracker.update(faces, number / fps))
    assert found == expected
