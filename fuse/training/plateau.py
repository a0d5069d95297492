"""A learning rate that falls when validation no longer gets better."""

from dataclasses import dataclass, replace

PATIENCE = 5  #: epochs without a better figure before the rate is halved
FALL = 0.5
LEAST = 0.01  #: of the first rate: from 5e-5 down to 5e-7, as the paper's authors ran it
MARGIN = 1e-4  #: how much better, relatively, a figure must be to count


@dataclass(frozen=True)
class Plateau:
    """torch's ReduceLROnPlateau for a figure that is to grow. factor: of the learning rate."""

    factor: float = 1.0
    best: float = float("-inf")
    epochs: int = 0  #: without a better figure

    def after(self, figure: float) -> "Plateau":
        """The state after an epoch with this figure."""
        if figure > self.best * (1 + MARGIN if self.best > 0 else 1 - MARGIN):
            return replace(self, best=figure, epochs=0)
        if self.epochs < PATIENCE:
            return replace(self, epochs=self.epochs + 1)
        return replace(self, factor=max(self.factor * FALL, LEAST), epochs=0)
