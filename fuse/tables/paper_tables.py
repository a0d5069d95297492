"""Tables 1 and 2 of the paper (arXiv 2407.12257) as a view of our figures, its own recounted beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.data.labels import basic_emotions
from twofold.fuse.scores.scored_head import Figures
from twofold.fuse.tables.columns import columns, percent

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


def paper_table(heads: Sequence[Figures], classes: tuple[str, ...]) -> list[str]:
    """The paper's rows (accuracy of each class, then acc and F1), a column a head; percent.

    Its classes stand in its order, others in their own. On RAF-DB's 397-image split its columns stand beside ours.
    """
    names = ROWS if set(classes) == set(ROWS) else classes
    place = [classes.index(name) for name in names]
    same = names == ROWS and tuple(int(n) for n in heads[0].scores.n[place]) == FACES
    beside = PUBLISHED if same else ()
    kind = "Compound Expression" if all(len(basic_emotions(name)) == 2 for name in names) else "class"
    rows = [(kind, *(f"#{number}" for number in range(1, len(heads) + 1)),
             *(f"paper: {column.name}" for column in beside))]
    for row, (name, c) in enumerate(zip(names, place, strict=True)):
        said = name.replace("_", " ").title() if basic_emotions(name) else name  # own names stay as they are
        rows.append((said, *(percent(each.scores.recall[c]) for each in heads),
                     *(percent(column.right[row] / FACES[row]) for column in beside)))
    rows.append(("acc", *(percent(each.scores.accuracy) for each in heads),
                 *(percent(column.accuracy) for column in beside)))
    rows.append(("F1", *(percent(each.scores.macro_f1) for each in heads),
                 *(percent(np.nan if column.f1 is None else column.f1) for column in beside)))
    legend = [f"#{number}  {each.head.name} ({each.head.ensemble})" for number, each in enumerate(heads, 1)]
    why = ("paper: acc recounted from its cells (its printed acc row contradicts them), F1 from its prose; the "
           "ensemble's printed acc 73.80 and F1 63.79 are not what its cells give") if same else (
           "the paper's own columns are shown on RAF-DB's 397-image split only")
    return [*columns(rows, left=1), "", *legend, why]
