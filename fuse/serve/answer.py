"""What the page is told of a picture: its faces, what each shows, and how long that took."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceAnswer:
    """One face. box: x, y, width, height in pixels of the upright picture; detection: the detector's score, or None.

    expressions: (C,) calibrated probabilities; basic: (8,), none of heads that predict no basic expressions; shares:
    (K,) of the streams, none of heads that do not weigh them; without: (K,) the probability of the likeliest
    expression with each stream at its training mean, none where there is but one stream.
    """

    box: tuple[float, ...]
    detection: float | None
    expressions: tuple[float, ...]
    basic: tuple[float, ...]
    shares: tuple[float, ...]
    without: tuple[float, ...]


@dataclass(frozen=True)
class Seconds:
    """Where the time went: in the queue, decoding and finding faces, in the encoders, in the head."""

    wait: float
    find: float
    encode: float
    decide: float


@dataclass(frozen=True)
class Answer:
    """A picture's size and faces, the largest first. left_out: smaller faces that were not looked at further."""

    width: int
    height: int
    faces: tuple[FaceAnswer, ...]
    left_out: int
    seconds: Seconds
