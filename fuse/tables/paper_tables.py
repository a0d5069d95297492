"""Tables 1 and 2 of the paper (arXiv 2407.12257) as a view of our figures, its own recounted beside them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from twofold.fuse.scores.scored_head import Figures

ROWS = ("angrily_surprised", "disgustedly_surprised", "fearfully_surprised", "happily_surprised", "sadly_angry",
        "sadly_fearful", "sadly_surprised")
FACES = (38, 35, 116, 135, 33, 22, 18)  #: of RAF-DB's 397-image test split, in the order of ROWS


@dataclass(frozen=True)
class Published:
    """One column of the paper. right: faces called right of FACES, recounted from its cells; f1: as its prose has it,
    None where only the table, which contradicts the cells, gives one."""

    name: str
    right: tuple[int, ...]
    f1: float | None

    @property
    def accuracy(self) -> float:
        return sum(self.right) / sum(FACES)


PUBLISHED = (
    Published("ViT", (23, 18, 93, 125, 28, 16, 7), 0.7025),
    Published("PosterV2", (20, 13, 94, 121, 25, 14, 7), 0.6357),
    Published("ResNet", (21, 21, 88, 116, 28, 14, 10), 0.6819),
    Published("Ensemble", (19, 16, 101, 116, 28, 17, 5), None),
)


def paper_table(systems: "list[Figures]", classes: tuple[str, ...]) -> list[str]:
    """The paper's rows (accuracy of each class, then acc and F1), a column a system; percent.

    Its classes stand in its order, others in their own. On RAF-DB's 397-image split its columns stand beside ours.
    """
    from twofold.fuse.tables.figures import columns, percent

    names = ROWS if set(classes) == set(ROWS) else classes
    place = [classes.index(name) for name in names]
    same = names == ROWS and tuple(int(n) for n in systems[0].scores.n[place]) == FACES
    beside = PUBLISHED if same else ()
    rows = [("Compound Expression", *(f"#{number}" for number in range(1, len(systems) + 1)),
             *(f"paper: {one.name}" for one in beside))]
    for row, (name, c) in enumerate(zip(names, place, strict=True)):
        rows.append((name.replace("_", " ").title(), *(percent(one.scores.recall[c]) for one in systems),
                     *(percent(one.right[row] / FACES[row]) for one in beside)))
    rows.append(("acc", *(percent(one.scores.accuracy) for one in systems), *(percent(one.accuracy) for one in beside)))
    rows.append(("F1", *(percent(one.scores.macro_f1) for one in systems),
                 *(percent(np.nan if one.f1 is None else one.f1) for one in beside)))
    legend = [f"#{number}  {one.system.name}" for number, one in enumerate(systems, 1)]
    why = ("paper: acc recounted from its cells (its printed acc row contradicts them), F1 from its prose; the "
           "ensemble's printed acc 73.80 and F1 63.79 are not what its cells give") if same else (
           "the paper's own columns are shown on RAF-DB's 397-image split only")
    return [*columns(rows, left=1), "", *legend, why]
