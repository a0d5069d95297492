"""Which facial muscles move in which emotion, as action units of the Facial Action Coding System.

Sources: P. Ekman, W. V. Friesen, Facial Action Coding System (1978), with the emotion table of EMFACS; compounds as
the union of their two basics: S. Du, Y. Tao, A. M. Martinez, Compound facial expressions of emotion, PNAS 111 (2014).
"""

from collections.abc import Sequence

#: action unit number to strength (0 to 1) in a full expression
BASIC_UNITS: dict[str, dict[int, float]] = {
    "neutral": {},
    "happiness": {6: 1.0, 12: 1.0, 25: 0.5},
    "sadness": {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.6},
    "surprise": {1: 0.9, 2: 1.0, 5: 0.8, 26: 1.0},
    "fear": {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 20: 1.0, 25: 0.7},
    "disgust": {4: 0.4, 9: 1.0, 10: 0.8, 16: 0.5, 17: 0.5},
    "anger": {4: 1.0, 5: 0.4, 7: 0.9, 23: 1.0, 24: 0.6},
    "contempt": {14: 1.0},  # on one side of the mouth only
}


def action_units(emotions: Sequence[str]) -> dict[int, float]:
    """Action units of a basic emotion, or of a compound as the union of its parts, the stronger where both move."""
    units: dict[int, float] = {}
    for emotion in emotions:
        for unit, strength in BASIC_UNITS[emotion].items():
            units[unit] = max(units.get(unit, 0.0), strength)
    return units
