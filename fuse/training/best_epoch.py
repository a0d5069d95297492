"""Which weights of a training are kept: the best so far of each member."""

import numpy as np
import torch


class Best:
    """The best weights so far of each member; a member whose patience is over takes no new ones."""

    def __init__(self, weights: list[torch.Tensor], score: np.ndarray):
        self.weights, self.score, self.since = weights, score, np.zeros(len(score), int)
        self.done = np.zeros(len(score), bool)

    @classmethod
    def of(cls, parameters: list[torch.Tensor], members: int) -> "Best":
        return cls([p.detach().clone() for p in parameters], np.full(members, -1.0))

    @property
    def all_done(self) -> bool:
        return bool(self.done.all())

    def update(self, parameters: list[torch.Tensor], figures: list[tuple[float, float]], patience: int) -> None:
        """Keep the weights of members whose macro-F1, the first of their figures, is their best so far."""
        for member, (score, _) in enumerate(figures):
            if score > self.score[member] and not self.done[member]:
                self.score[member], self.since[member] = score, 0
                for kept, p in zip(self.weights, parameters, strict=True):
                    kept[member].copy_(p.detach()[member])
            else:
                self.since[member] += 1
        self.done |= (self.since >= patience) & (patience > 0)

    def restore(self, parameters: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for kept, p in zip(self.weights, parameters, strict=True):
                p.copy_(kept)


class using:
    """Within it, parameters hold the values of `average`, if there is one."""

    def __init__(self, parameters: list[torch.Tensor], average: list[torch.Tensor] | None):
        self.pairs = list(zip(parameters, average, strict=True)) if average else []

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        for p, other in self.pairs:
            p.data, other.data = other.data, p.data
