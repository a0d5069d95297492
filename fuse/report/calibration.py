"""How sure a run is and how often rightly, before its temperature and under it."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from twofold.fuse.metrics.scores import BINS, Reliability, reliability, tempered
from twofold.fuse.report import svg
from twofold.fuse.report.markup import scrolled

CLOSE = 0.005  #: how far the error of what is worked out backwards may be from the recorded one


@dataclass(frozen=True, eq=False)
class Calibration:
    """The bins of a run's calls. before: without its temperature; None for old runs of which that is not known."""

    after: Reliability
    before: Reliability | None


def calibration_of(system: Mapping[str, Any], probabilities: np.ndarray, truth: np.ndarray, *,
                   folds: int) -> Calibration:
    """As metrics.json holds it; of older runs, from the probabilities (n, C) of predictions.csv.

    These are of the ensemble's mean under one temperature, p ** (1 / T), normalised, so that T as an exponent gives the
    mean back. With a temperature a fold, of faces whose fold is not written down, it does not.
    Raises ValueError, KeyError or TypeError for bins that are none: a run may come from a stranger.
    """
    if "reliability" in system:
        return Calibration(_bins(system["reliability"]), _bins(system["reliability_before_temperature"]))
    after = reliability(probabilities, truth)
    if folds > 1:
        return Calibration(after, None)
    before = reliability(tempered(probabilities, 1 / system["temperature"]), truth)
    return Calibration(after, before if abs(before.error - error_before(system)) < CLOSE else None)


def error_after(system: Mapping[str, Any]) -> float:
    """The calibration error of a system; `ece_calibrated` is what older runs call it."""
    return float(system.get("calibration_error", system.get("ece_calibrated")))


def error_before(system: Mapping[str, Any]) -> float:
    """The same without the temperature."""
    return float(system.get("calibration_error_before_temperature", system.get("ece")))


def _bins(record: Mapping[str, Any]) -> Reliability:
    bins = Reliability(*(np.array(record[name], float) for name in ("faces", "right", "confidence")))
    if any(values.shape != (BINS,) or not np.isfinite(values).all() for values in vars(bins).values()) or (
            (bins.right < 0) | (bins.right > bins.faces)).any():
        raise ValueError("the bins of the confidence are none")
    return bins


def calibration_drawings(calibration: Calibration, mark: str) -> dict[str, str]:
    """By name, each an SVG that stands alone. mark: what is said of untrained encoders."""
    svgs = {"reliability": svg.reliability("under the temperature" + mark, calibration.after)}
    if calibration.before is not None:
        svgs["reliability-before-temperature"] = svg.reliability("before the temperature" + mark, calibration.before)
    return svgs


def calibration_section(system: Mapping[str, Any], drawn: Mapping[str, str], mark: str) -> list[str]:
    """The diagrams side by side, with their errors."""
    shown = (("reliability-before-temperature", "before the temperature", error_before(system)),
             ("reliability", f"under the temperature of {system['temperature']:.2f}", error_after(system)))
    figures = [f"<figure><figcaption>{escape(words)}: calibration error {error:.3f}{escape(mark)}</figcaption>"
               f"{scrolled(drawn[name])}</figure>" for name, words, error in shown if name in drawn]
    unknown = "" if "reliability-before-temperature" in drawn else (
        f" Before it, the error was {error_before(system):.3f}; this older run kept nothing to draw that from.")
    return ["<h3>How sure it is, and how often rightly</h3>", f'<div class="side">{"".join(figures)}</div>',
            "<p>Bars: how often calls of each confidence are right; on the line they would be right as often as they "
            f"say. Pale bars are of few faces. The temperature was fitted on validation.{unknown}</p>"]
