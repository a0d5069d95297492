"""Who is who from frame to frame."""

from twofold.data.faces.detectors import Detection
from twofold.data.faces.track import Tracker

NOWHERE = ((0.0, 0.0),) * 5


def face(x, y=0.0, side=40.0):
    return Detection((x, y, side, side), NOWHERE, 0.9)


def tracks(frames, fps=25.0):
    tracker = Tracker()
    return [tracker.update([face(*place) if isinstance(place, tuple) else face(place) for place in places],
                           number / fps) for number, places in enumerate(frames)]


def test_two_people_side_by_side_keep_their_numbers_whoever_comes_first():
    assert tracks([[0, 100], [104, 3], [8, 96], [90, 12]]) == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_one_more_person_begins_a_track():
    assert tracks([[0], [2, 200], [4, 202]]) == [[0], [0, 1], [0, 1]]


def test_the_larger_overlap_wins_where_boxes_cross():
    assert tracks([[0, 30], [16, 28]]) == [[0, 1], [0, 1]]


def test_a_short_gap_is_bridged_and_a_long_one_is_not():
    assert tracks([[0]] + [[]] * 20 + [[25]]) == [[0]] + [[]] * 20 + [[0]]
    assert tracks([[0]] + [[]] * 30 + [[0]]) == [[0]] + [[]] * 30 + [[1]]


def test_after_a_gap_somebody_far_away_or_of_another_size_is_somebody_else():
    assert tracks([[0], [], [100]]) == [[0], [], [1]]
    assert tracks([[(0, 0, 40)], [], [(0, 0, 80)]]) == [[0], [], [1]]


def test_few_frames_a_second_still_link():
    assert tracks([[0], [10], [20]], fps=0.2) == [[0], [0], [0]]


def test_no_two_faces_of_a_frame_share_a_track():
    for numbers in tracks([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 0, 0, 0]]):
        assert len(set(numbers)) == len(numbers)
