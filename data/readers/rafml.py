"""RAF-ML (http://www.whdeng.cn/RAF/model2.html): blended expressions as distributions over six basic emotions.

`EmoLabel/distribution.txt` has lines `0001.jpg` and six shares, of surprise, fear, disgust, happiness, sadness and
anger; pictures are `Image/aligned/0001_aligned.jpg` or `Image/original/0001.jpg`. `EmoLabel/partition_label.txt` has
lines `0001.jpg 0`; that 0 is train and 1 is test, as in RAF-CE by the same authors, could not be confirmed, so a copy
with fewer samples of 0 than of 1 is refused.
"""

from pathlib import PurePath
from typing import Annotated

from twofold.data.images.archives import Place
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import (
    check_choice,
    compare_counts,
    missing_note,
    read_partition,
    read_shares,
    reads_archives,
)
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

SHARES, PARTITION = "EmoLabel/distribution.txt", "EmoLabel/partition_label.txt"
PUBLISHED = {"": 4_908}  #: Li and Deng 2019, International Journal of Computer Vision 127


@reads_archives
def read_rafml(
    root: Place, *, images: Annotated[str, cli_option(help="aligned or original.")] = "aligned",
) -> Manifest:
    """The manifest of RAF-ML in the order of its distributions, without hard labels.

    Raises InputError naming the file that is not there or the line that is not as published.
    """
    check_choice(images, ("aligned", "original"), "images of RAF-ML")
    if not (root / SHARES).is_file():
        raise InputError(f"{root}: no {SHARES} in it: give the folder that holds EmoLabel/ and Image/")
    shares = read_shares(root / SHARES, builtin_taxonomy("basic6").classes, like="0001.jpg 0.5 0 0 0.5 0 0")
    table = shares.rename_axis("image").reset_index()
    if (root / PARTITION).is_file():
        table["split"] = read_partition(root / PARTITION, table["image"], ("train", "test"), "RAF-ML")
        if (table["split"] == "test").mean() > 0.5:
            raise InputError(f"{root / PARTITION}: more samples of 1 than of 0, which should be train: name the splits "
                             "by a table of your own (`manifest csv`)")
    suffix = "_aligned" if images == "aligned" else ""
    table["key"] = [f"Image/{images}/{path.stem}{suffix}{path.suffix}" for path in map(PurePath, table.pop("image"))]
    notes = missing_note(root, table["key"].tolist(), remedy=f"unpack {images}.zip into Image/{images}/")
    return build_manifest(table, source=str(root / SHARES),
                          notes=[*notes, *compare_counts("RAF-ML", PUBLISHED, table)])


READER = read_rafml
