"""How many faces each dataset has as published, to tell a complete copy from a part of one.

Sources: RAF-DB and RAF-CE (http://www.whdeld.cn), AffectNet (Mollahosseini et al. 2017; the 2021 release's val_set
has 3,999 usable files), FER2013 (Goodfellow et al. 2013), C-EXPR-DB (Kollias 2023; ABAW's submission template).
"""

import pandas as pd

#: dataset to faces by split; the empty split stands for all of them together
PUBLISHED: dict[str, dict[str, int]] = {
    "RAF-DB basic": {"train": 12_271, "test": 3_068},
    "RAF-DB compound": {"": 3_954},
    "RAF-CE": {"": 4_549},
    "AffectNet, 8 classes": {"train": 287_651, "val": 3_999},
    "AffectNet, 7 classes": {"train": 283_901, "val": 3_500},
    "FER2013": {"train": 28_709, "val": 3_589, "test": 3_589},
    "C-EXPR-DB submission template": {"": 26_145},
}


def differences(dataset: str, table: pd.DataFrame) -> list[str]:
    """A sentence with both numbers for each split that has not as many faces as published."""
    counts = {split: int((table["split"] == split).sum()) if split else len(table) for split in PUBLISHED[dataset]}
    return [f"{dataset}{f' {split}' if split else ''}: {counts[split]:,} faces here, {count:,} as published"
            for split, count in PUBLISHED[dataset].items() if counts[split] != count]
