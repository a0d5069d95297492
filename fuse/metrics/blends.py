"""Blended emotions: the one or two that a distribution decides for, and BLEMORE's two measures (arXiv 2601.13225).

A decision is a distribution, too: 1 for a single emotion, 0.5 and 0.5 or 0.7 and 0.3 for two.
"""

import numpy as np

from twofold.fuse.metrics.metric import mean_metric

THRESHOLDS = np.linspace(0.05, 0.95, 20)  #: that are tried, as the challenge's baselines do
LARGER = 0.7  #: share of the more salient of two emotions


def decide_blends(output: np.ndarray, thresholds: np.ndarray, neutral: int) -> np.ndarray:
    """(N, C) decisions of distributions (N, C). neutral: the class that never blends, -1 for none.

    thresholds: (N or 1, 2), presence and salience. The two largest shares count, the second only if it reaches the
    presence threshold; with neutral among them the larger is the single emotion (the other one where they are equal).
    Two that differ by no more than the salience threshold are equally salient.
    """
    rows, order = np.arange(len(output)), np.argsort(-output, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    larger, smaller = output[rows, first], output[rows, second]
    presence, salience = np.broadcast_to(thresholds, (len(output), 2)).T
    two = (smaller >= presence) & (smaller > 0)
    single = np.where(two & (first == neutral) & (smaller >= larger), second, first)
    two &= (first != neutral) & (second != neutral)
    share = np.where(two, np.where(larger - smaller <= salience, 0.5, LARGER), 1.0)
    decided = np.zeros(output.shape)
    decided[rows, single] = share
    decided[rows[two], second[two]] = 1 - share[two]
    return decided


def choose_blend_thresholds(target: np.ndarray, output: np.ndarray, neutral: int) -> np.ndarray:
    """(2,) the presence and salience thresholds with the greatest sum of both accuracies, of several the least."""
    best, chosen = -1.0, (THRESHOLDS[0], THRESHOLDS[0])
    for presence in THRESHOLDS:
        for salience in THRESHOLDS:
            decided = decide_blends(output, np.array([[presence, salience]]), neutral)
            total = sum(np.nan_to_num(metric.of(target, decided)) for metric in (PRESENCE, SALIENCE))
            if total > best + 1e-12:
                best, chosen = total, (presence, salience)
    return np.array(chosen)


def _shares(target: np.ndarray) -> np.ndarray:
    total = target.sum(axis=1, keepdims=True)
    return target / np.where(total > 0, total, 1)


def _same_emotions(target: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """(N,) 1 where the emotions of a decision are those of the target, whatever their shares."""
    return np.where((target > 0).any(axis=1), ((target > 0) == (decided > 0)).all(axis=1), np.nan)


def _same_shares(target: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """(N,) 1 where a decision has the two emotions of the target and their shares, in whole per cent."""
    per_cent = np.round(100 * _shares(target)), np.round(100 * decided)
    return np.where((target > 0).sum(axis=1) == 2, (per_cent[0] == per_cent[1]).all(axis=1), np.nan)


PRESENCE = mean_metric("presence", "presence", _same_emotions, higher=True)
SALIENCE = mean_metric("salience", "salience", _same_shares, higher=True)  #: of samples with two emotions
BLEND_METRICS = (PRESENCE, SALIENCE)


def describe_blend(decided: np.ndarray, names: tuple[str, ...]) -> str:
    """A decision (C,) in words: `sadness`, or `anger 70 + disgust 30`, the more salient first."""
    order = [c for c in np.argsort(-decided, kind="stable") if decided[c] > 0]
    return names[order[0]] if len(order) == 1 else " + ".join(f"{names[c]} {100 * decided[c]:.0f}" for c in order)
