"""Labels from the ten votes that FER+ has for each face (Barsoum et al. 2016, arXiv 1608.01041).

The basic label is the authors' majority rule, single votes dropped first. FER+ has no compound labels; the compound
rule is this project's.
"""

import numpy as np

VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
#: what a compound can be made of; as in every taxonomy of the field, the earlier one gives the adverb
PAIRED = ("happiness", "sadness", "fear", "anger", "disgust", "surprise")
ADVERBS = ("happily", "sadly", "fearfully", "angrily", "disgustedly", "")
ADJECTIVES = ("", "sad", "fearful", "angry", "disgusted", "surprised")
#: the rules' names, as the manifest's columns `basic_rule` and `compound_rule` give them
MAJORITY, LOOSE, STRICT = "ferplus majority without single votes", "derived from ferplus votes", "derived, strict"


def majority(votes: np.ndarray) -> np.ndarray:
    """(N,) the emotion with more than half of the votes (N, 10) that count, else empty; `unknown` and `NF` are none.

    As the authors' `ferplus.py` has it: an emotion that only one person saw is an outlier, and its vote counts for
    nothing. The plain majority of all ten loses 4,010 of the full file's labels (train 21,811 instead of 25,060).
    """
    counted = np.where(votes > 1, votes, 0)
    best = counted.argmax(axis=1)
    clear = (counted.max(axis=1) * 2 > counted.sum(axis=1)) & (best < VOTED.index("unknown"))
    return np.where(clear, np.array(VOTED, dtype=object)[best], "")


def compounds(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) compound labels, empty where there is none, and (N,) bool, true where they are strict, from votes (N, 10).

    The two emotions of `PAIRED` with most votes make the compound if the second has at least 2 votes and more than
    the third, both together at least 5, and neutral no more than the second. Strict: at least 3 and 6, neutral fewer.
    """
    paired = votes[:, [VOTED.index(name) for name in PAIRED]]
    order = np.argsort(-paired, axis=1, kind="stable")
    first, second, third = (np.take_along_axis(paired, order[:, place:place + 1], axis=1)[:, 0] for place in range(3))
    neutral = votes[:, VOTED.index("neutral")]
    loose = (second >= 2) & (first + second >= 5) & (second > third) & (neutral <= second)
    strict = loose & (second >= 3) & (first + second >= 6) & (neutral < second)
    labels = [f"{ADVERBS[min(a, b)]}_{ADJECTIVES[max(a, b)]}" if clear else ""
              for a, b, clear in zip(order[:, 0], order[:, 1], loose, strict=True)]
    return np.array(labels, dtype=object), strict
