"""Drawn faces, written to a new folder ROOT: people who show each class; for tests, and to try things out."""

from pathlib import Path
from typing import Annotated

from twofold.data.labels import load_taxonomy
from twofold.data.manifest import Manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_argument, cli_option


def read_drawn(
    root: Annotated[Path, cli_argument(metavar="ROOT", help="The folder to draw into, new or empty.")], *,
    classes: Annotated[str, cli_option(help="Taxonomy of basic or compound emotions.")] = "cexpr7",
    people: Annotated[int, cli_option(min=1, help="People; each shows each class once.")] = 40,
    truth: Annotated[bool, cli_option("--truth", help="Blends of known shares, with columns of what was drawn: shares "
                                      "(p_), action units (au_), valence and arousal.")] = False,
    size: Annotated[int, cli_option(min=16, max=1024, help="Side of an image in pixels.")] = 112,
    seed: Annotated[int, cli_option(min=0, help="Other people.")] = 0,
) -> Manifest:
    """Draw the faces of a taxonomy and return their manifest. Raises InputError for own classes and a folder with
    something in it."""
    taxonomy = load_taxonomy(classes)
    if taxonomy.target not in ("basic", "compound"):
        raise InputError(f"{classes} are not basic or compound emotions: nobody knows how to draw them")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is not a new or empty folder: name another to draw into")
    return draw_dataset(root, taxonomy=taxonomy, per_class=people, size=size, seed=seed, per_identity=1, truth=truth)


READER = read_drawn
