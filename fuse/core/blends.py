"""Blended emotions as a task: a distribution that is decided for one emotion, or for two with their shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from twofold.data.labels import Taxonomy
from twofold.fuse.core.kinds import Distribution
from twofold.fuse.core.task import Calibration, Encoded, Predicted
from twofold.fuse.metrics import blends
from twofold.fuse.metrics.metric import Metric

BLENDED = "blemore6"  #: the classes of which distributions are decided so


@dataclass(frozen=True)
class Blends(Distribution):
    """One emotion a sample, or two with their shares, decided from a distribution; BLEMORE (arXiv 2601.13225).

    The thresholds of presence and salience are chosen on validation, for the outputs as they are: no temperature. They
    stand in the places of the first two of as many thresholds as there are outputs.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (*blends.BLEND_METRICS, *Distribution.metrics)

    @property
    def neutral(self) -> int:
        """The number of the class that never blends, -1 for none."""
        return self.outputs.index("neutral") if "neutral" in self.outputs else -1

    def decided(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """(n, C) shares of the one or two emotions that outputs (n, C) are decided for."""
        return blends.decide_blends(outputs, thresholds[:, :2], self.neutral)

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        truth = features.truth[rows]
        chosen = blends.choose_blend_thresholds(truth, outputs, self.neutral)
        unused = [0.0] * (len(self.outputs) - 2)
        return Calibration(thresholds=(*chosen.tolist(), *unused)), self.score.of(truth, outputs)

    def decide(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        return np.array([blends.describe_blend(row, self.outputs) for row in self.decided(outputs, thresholds)], object)

    def read_truth(self, table: pd.DataFrame, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return super().read_truth(table.assign(prediction=table["prediction"].str.partition(" ")[0]), outputs)

    def read_decisions(self, answers: Sequence[str]) -> np.ndarray:
        thresholds = np.zeros((len(answers), len(self.outputs)))
        thresholds[:, 0] = [-np.inf if " + " in answer else np.inf for answer in answers]
        thresholds[:, 1] = [np.inf if answer.endswith(" 50") else -np.inf for answer in answers]
        return thresholds

    def compared(self, metric: Metric, predictions: Predicted, outputs: np.ndarray | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
        target, output = super().compared(metric, predictions, outputs)
        return target, self.decided(output, predictions.thresholds) if metric in blends.BLEND_METRICS else output


def distribution_task(taxonomy: Taxonomy, *, teach: str = "soft") -> Distribution:
    """The task of distributions over these classes."""
    return (Blends if taxonomy.name == BLENDED else Distribution)(taxonomy, teach=teach)
