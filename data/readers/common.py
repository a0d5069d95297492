"""What the readers share: archives as roots, lists of file names, missing files, pictures that they write."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path, PurePath
from typing import TypeVar

import pandas as pd

from twofold.data.images.archives import Archive, ArchivePath, Place, is_archive, read_head, relative_path
from twofold.data.images.decode import ImageError
from twofold.data.images.formats import VIDEO_SUFFIXES, is_hidden, is_image, left_out_note, unreadable_notes
from twofold.data.manifest import SOFT, Manifest, build_manifest
from twofold.data.utils.atomic import atomic_write
from twofold.data.utils.csv_files import check_columns, read_table, text_encoding
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import usable_cores

T = TypeVar("T")
LABELS = ("basic", "compound", "split", "intensity")  #: columns, beside shares, that a reader of clips writes anew


def reads_archives(read: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """A reader of folders that takes an archive as root, too; an archive of one folder is read from there.

    The keys are the names of the archive's members, as `extract --root ARCHIVE` needs them. Raises InputError for a
    root that is neither.
    """
    @wraps(read)
    def run(root: Place, **options: object) -> Manifest:
        if isinstance(root, ArchivePath) or not is_archive(root):
            if not root.is_dir():
                raise InputError(f"{root}: no such folder")
            return read(root, **options)
        top = ArchivePath(Archive(root.resolve()))
        inside = [path for path in top.iterdir() if path.name != "__MACOSX"]
        if len(inside) != 1 or not inside[0].is_dir():
            return read(top, **options)
        samples = read(inside[0], **options)
        return build_manifest(samples.table.assign(key=f"{inside[0].key}/" + samples.table["key"]), source=str(root),
                              notes=samples.notes)

    return run


def find_images(root: Place, *, follow_links: bool = False) -> tuple[list[PurePath], list[str]]:
    """The images below a root, as sorted relative paths, and a sentence on what else is there and left out."""
    links: list[str] = []
    places: list[Place] = []
    locked: list[OSError] = []
    if isinstance(root, ArchivePath):
        places += root.rglob("*")
    else:
        seen = {os.path.realpath(root)}
        for folder, folders, files in os.walk(root, followlinks=follow_links, onerror=locked.append):
            places += [Path(folder, name) for name in files]
            linked = {name: os.path.realpath(os.path.join(folder, name)) for name in folders
                      if os.path.islink(os.path.join(folder, name))}
            folders[:] = [name for name in folders if linked.get(name) not in seen]  # a link to a parent has no end
            seen.update(linked.values())
            links += [] if follow_links else sorted(linked)
    images, others, irregular = [], [], []
    for place in places:
        path = relative_path(place, root)
        if place.is_file():
            (images if is_image(path, partial(read_head, place)) else others).append(path)
        elif isinstance(place, Path) and not is_hidden(path):
            irregular.append(path)
    notes = [left_out_note(root, others)] if any(not is_hidden(path) for path in others) else []
    notes += unreadable_notes(root, irregular, locked)
    if links:
        notes.append(f"{root}: {len(links):,} folders are links and are left out (the first is {links[0]}): "
                     "--follow-links reads them, too")
    return sorted(images), notes


def check_choice(value: str, choices: Sequence[str], what: str) -> None:
    """Raises InputError for a value that is not one of the choices."""
    if value not in choices:
        raise InputError(f"{what}: {value!r} is not known: choose from {', '.join(choices)}")


def compare_counts(dataset: str, published: Mapping[str, int], table: pd.DataFrame) -> list[str]:
    """A sentence with both numbers for each split that has not as many samples as published."""
    counts = {split: int((table["split"] == split).sum()) if split else len(table) for split in published}
    return [f"{dataset}{f' {split}' if split else ''}: {counts[split]:,} samples here, {count:,} as published"
            for split, count in published.items() if counts[split] != count]


def parse_int(text: str) -> int | None:
    """A whole number of a few ASCII digits, also as pandas writes it where a column has empty cells (`3.0`); None for
    any other text."""
    whole = re.fullmatch(r"(-?[0-9]{1,9})(\.0*)?", text.strip())
    return int(whole[1]) if whole else None


def read_lines(path: Place) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1; any line ends, in UTF-8, or UTF-16 with a byte order
    mark. Raises InputError."""
    try:
        content = path.read_bytes()
        text = content.decode(text_encoding(content))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8: save it as UTF-8") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_by_image(path: Place, parse: Callable[[list[str]], T | None], *, like: str) -> dict[str, T]:
    """Lines that begin with an image, as image to what `parse` makes of the other words, in order.

    Raises InputError naming the line that `parse` refuses (by None, or by an InputError of its own) or that names an
    image again, and for a file without lines.
    """
    rows: dict[str, T] = {}
    for line, text in read_lines(path):
        image, *words = text.split()
        try:
            value = parse(words)
        except InputError as error:
            raise InputError(f"{path}: line {line}: {error}") from None
        if value is None:
            raise InputError(f"{path}: line {line}: {text[:200]!r} is not like {like!r}")
        if image in rows:
            raise InputError(f"{path}: line {line}: {image} stands in another line already")
        rows[image] = value
    if not rows:
        raise InputError(f"{path}: no lines like {like!r}")
    return rows


def read_numbered(path: Place, names: Sequence[str], what: str, *, like: str, first: int = 0) -> dict[str, str]:
    """Lines such as `0001.jpg 5` as image to the name of the number, in order; the numbers count from `first`.

    Raises InputError naming the line that is otherwise, that names an image again, or whose number is not a `what`.
    """
    def name(words: list[str]) -> str | None:
        number = parse_int(words[0]) if len(words) == 1 else None
        if number is None or number < 0:
            return None
        if not first <= number < first + len(names):
            raise InputError(f"{number} is not a {what} ({first} to {first + len(names) - 1})")
        return names[number - first]

    return read_by_image(path, name, like=like)


def read_partition(path: Place, images: pd.Series, splits: Sequence[str], dataset: str) -> list[str]:
    """The split of each of these images, by lines such as `0001.jpg 0`. Raises InputError for an image without one."""
    of_image = read_numbered(path, splits, f"split of {dataset}: {', '.join(splits)}", like="0001.jpg 0")
    for image in images:
        if image not in of_image:
            raise InputError(f"{path}: no line for {image}, which the list of labels has")
    return [of_image[image] for image in images]


def read_shares(path: Place, classes: Sequence[str], *, like: str) -> pd.DataFrame:
    """Lines such as `0001.jpg 0.5 0.5 0`, an image and its shares or votes, as columns `p_<class>` by image.

    Raises InputError naming the line that is otherwise, that names an image again, or whose number is none.
    """
    def shares(words: list[str]) -> list[str] | None:
        try:
            sound = len(words) == len(classes) and all(0 <= float(word) < float("inf") for word in words)
        except ValueError:
            sound = False
        return words if sound else None

    return pd.DataFrame.from_dict(read_by_image(path, shares, like=like), orient="index",
                                  columns=[f"{SOFT}{name}" for name in classes])


def join_images(table: pd.DataFrame, images: pd.Series, shares: pd.DataFrame, path: Place) -> list[str]:
    """Add the columns of `shares`, by image, to a table whose rows show these `images`; notes on what has no partner.
    Raises InputError if nothing has one."""
    known, listed = images.isin(shares.index), shares.index.isin(images)
    if not known.any():
        raise InputError(f"{path}: none of its images is one of the dataset's (the first is {shares.index[0]})")
    table[shares.columns] = shares.reindex(images).fillna("").to_numpy(object)
    return [f"{path}: {count:,} {what}" for count, what in (
        (int((~known).sum()), "of the dataset's images have no line in it"),
        (int((~listed).sum()), "of its lines are of no image of the dataset")) if count]


def find_clips(root: Place) -> tuple[pd.DataFrame, list[str]]:
    """The videos below a root as samples, or the faces that `crop` wrote of them, with the video of each as `source`.

    The notes say how to go on with videos. Raises InputError if there are neither.
    """
    if (root / "crop.json").is_file() and (root / "faces.csv").is_file():
        table = read_table(root / "faces.csv")
        check_columns(table, ("key", "source"), f"{root / 'faces.csv'} (not as `crop` writes it)")
        if not len(table):
            raise InputError(f"{root / 'faces.csv'}: no faces in it: `crop` found none in the videos")
        labels = [name for name in table.columns if name in LABELS or name.startswith(SOFT)]
        return table.drop(columns=labels), []
    keys = sorted(relative_path(path, root).as_posix() for path in root.rglob("*")
                  if PurePath(path.name).suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    keys = [key for key in keys if not is_hidden(PurePath(key))]
    if not keys:
        raise InputError(f"{root}: no videos below it, nor the faces that `crop` made of them")
    return pd.DataFrame({"key": keys, "source": keys}), [
        f"a sample is a video: `crop {root} -o DIR` cuts out the faces, then read DIR by the same verb"]


def write_images(
    samples: Manifest, folder: Path, names: list[str], content: Callable[[int], bytes],
) -> tuple[Manifest, dict[int, str]]:
    """Write the picture of each row (from 0) into `folder` under its name, unless it is there already.

    Returns the manifest of these files, and the reasons of the rows that cannot be read (ImageError).
    """
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)

    def write(row: int) -> str:
        try:
            if not (folder / names[row]).exists():
                data = content(row)
                with atomic_write(folder / names[row], durable=False) as temporary:
                    temporary.write_bytes(data)
        except ImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(usable_cores()) as pool:
        reasons = dict(enumerate(pool.map(write, range(len(names)))))
    written = build_manifest(samples.table.assign(key=names), source=str(folder), notes=samples.notes)
    return written, {row: reason for row, reason in reasons.items() if reason}


def missing_files(root: Place, keys: Sequence[str]) -> list[str]:
    """The keys that are no files below root; folders are listed once, so that this is quick for a million."""
    here: set[str] = set()
    for folder in {key.rpartition("/")[0] for key in keys}:
        with contextlib.suppress(OSError):
            here.update(f"{folder}/{path.name}".removeprefix("/") for path in (root / folder).iterdir())
    return [key for key in keys if key not in here]


def missing_note(root: Place, keys: Sequence[str], *, remedy: str) -> list[str]:
    """A sentence on the listed images that are not there. Raises InputError with `remedy` if none of them is."""
    missing = missing_files(root, keys)
    if keys and len(missing) == len(keys):
        raise InputError(f"{root}: none of the {len(keys):,} listed images is there (the first is {keys[0]}): {remedy}")
    return [f"{len(missing):,} of {len(keys):,} listed images are not there (the first is {missing[0]})"
            ] if missing else []
