"""The verbs of `manifest`, and `crop`: parse, call one function, return its report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold import Report

if TYPE_CHECKING:
    from twofold.data.labels import Taxonomy
    from twofold.data.manifest import Manifest, ManifestReport

log = logging.getLogger(__name__)
manifest_app = typer.Typer(no_args_is_help=True, help="Index a dataset into a table of faces; merge, split, check it.")

def writable(output: Path | None) -> Path | None:
    """Refuse an output that is something else than a manifest before anything is read."""
    from twofold.data.manifest import manifest_output

    if output is not None:
        manifest_output(output).check()
    return output


Output = Annotated[Path, typer.Option("-o", "--output", metavar="FACES.csv", callback=writable,
                                       help="The manifest to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another manifest that is there.")]
Map = Annotated[list[str] | None, typer.Option("--map", metavar="OLD=NEW",
                                               help="A label or folder by another name (repeatable).")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The dataset's folder or archive; keys are relative to it.")]
Table = Annotated[Path, typer.Argument(metavar="FACES.csv", help="A manifest.")]


@manifest_app.command("csv")
def manifest_csv(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="One row a face, with a header line.")],
    output: Output,
    key: Annotated[str, typer.Option(help="Column of image paths.")] = "key",
    split: Annotated[str, typer.Option(help="Column of train, val, test; here and below: none leaves it out.")] = "",
    basic: Annotated[str, typer.Option(help="Column of basic emotions.")] = "",
    compound: Annotated[str, typer.Option(help="Column of compound expressions.")] = "",
    group: Annotated[str, typer.Option(help="Column of what must stay on one side: subject, duplicates.")] = "",
    classes: Annotated[str, typer.Option(help="Taxonomy, or FILE.toml, whose names or numbers the labels are.")] = "",
    from_zero: Annotated[bool, typer.Option("--from-zero", help="Numbers are places in its order, from 0.")] = False,
    rename: Map = None,
    overwrite: Overwrite = False,
) -> Report:
    """Any CSV table; say which column is what. Columns called split, basic, compound, group are taken as they are."""
    from twofold.data.labels import load_taxonomy, parse_label_map
    from twofold.data.readers.csv import read_csv

    own = load_taxonomy(classes) if classes else None
    return write_faces(read_csv(table, key=key, split=split, basic=basic, compound=compound, group=group, classes=own,
                                from_zero=from_zero, names=parse_label_map(rename, own)),
                       output, [table], overwrite=overwrite, classes=own)


@manifest_app.command("folder")
def manifest_folder(
    root: Root, output: Output,
    classes: Annotated[str, typer.Option(help="Taxonomy, or FILE.toml, whose names or numbers the folders have.")] = "",
    rename: Map = None,
    overwrite: Overwrite = False,
) -> Report:
    """Class folders: split/class/*.jpg or class/*.jpg."""
    from twofold.data.labels import load_taxonomy, parse_label_map
    from twofold.data.readers.common import read_dataset
    from twofold.data.readers.folder import read_folder

    own = load_taxonomy(classes) if classes else None
    faces = read_dataset(root, partial(read_folder, classes=own, names=parse_label_map(rename, own)))
    return write_faces(faces, output, overwrite=overwrite, classes=own)


@manifest_app.command("rafdb")
def manifest_rafdb(
    root: Root, output: Output,
    part: Annotated[str, typer.Option(help="basic, compound or both.")] = "compound",
    images: Annotated[str, typer.Option(help="aligned or original.")] = "aligned",
    overwrite: Overwrite = False,
) -> Report:
    """RAF-DB: the folder that holds basic/ and compound/, as published or repackaged into class folders."""
    from twofold.data.readers.common import read_dataset
    from twofold.data.readers.rafdb import read_rafdb

    return write_faces(read_dataset(root, partial(read_rafdb, part=part, images=images)), output, overwrite=overwrite)


@manifest_app.command("rafce")
def manifest_rafce(root: Root, output: Output, overwrite: Overwrite = False) -> Report:
    """RAF-CE: the folder that holds RAFCE_emolabel.txt and aligned/."""
    from twofold.data.readers.common import read_dataset
    from twofold.data.readers.rafce import read_rafce

    return write_faces(read_dataset(root, read_rafce), output, overwrite=overwrite)


@manifest_app.command("affectnet")
def manifest_affectnet(
    root: Root, output: Output,
    classes: Annotated[str, typer.Option(help="basic8, or basic7 without contempt.")] = "basic8",
    val_as: Annotated[str, typer.Option(help="test makes its official validation set the test split.")] = "val",
    crop: Annotated[Path | None, typer.Option(help="Older release: write the faces, cut out, to this folder.")] = None,
    overwrite: Overwrite = False,
) -> Report:
    """AffectNet: train_set/ and val_set/ of 2021, or the older training.csv and validation.csv."""
    from twofold.data.readers.affectnet import read_affectnet
    from twofold.data.readers.common import read_dataset

    faces = read_dataset(root, partial(read_affectnet, classes=classes, val_as=val_as))
    if crop is not None:
        from twofold.data.readers.affectnet import crop_faces

        faces = crop_faces(faces, root, crop)
    return write_faces(faces, output, overwrite=overwrite)


@manifest_app.command("fer2013")
def manifest_fer2013(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="fer2013.csv, or the folder that holds it.")],
    output: Output,
    ferplus: Annotated[Path | None, typer.Option(help="fer2013new.csv: votes for basic and compound labels.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Only the clearer compound labels.")] = False,
    unpack: Annotated[Path | None, typer.Option(help="Write the faces as PNG files to this folder.")] = None,
    overwrite: Overwrite = False,
) -> Report:
    """FER2013, with the votes of FER+: faces are read from inside the csv."""
    from twofold.data.readers.fer2013 import read_fer2013
    from twofold.data.readers.fer2013 import unpack as run_unpack

    faces = read_fer2013(root, ferplus=ferplus, strict=strict)
    return write_faces(run_unpack(faces, root, unpack) if unpack is not None else faces, output,
                       [path for path in (root, ferplus) if path], overwrite=overwrite)


@manifest_app.command("cexpr")
def manifest_cexpr(
    root: Root, output: Output,
    template: Annotated[Path | None, typer.Option(help="The submission template: the rows to answer.")] = None,
    annotation: Annotated[Path | None, typer.Option(help="True classes: a table as the template, or a folder.")] = None,
    crop: Annotated[Path | None, typer.Option(help="ROOT holds videos: crop them to this folder.")] = None,
    detector: Annotated[Path | None, typer.Option(help="Of --crop: YuNet's ONNX file.")] = None,
    overwrite: Overwrite = False,
) -> Report:
    """C-EXPR-DB (ABAW): a folder of cropped frames for each video, or the videos themselves."""
    from twofold.data.readers.cexpr import read_cexpr
    from twofold.data.readers.common import read_dataset

    if crop is not None:
        from twofold.data.faces.challenge import crop_challenge

        root = crop_challenge(root, template, crop, detector)
    return write_faces(read_dataset(root, partial(read_cexpr, template=template, annotation=annotation)), output,
                       [path for path in (template, annotation) if path], overwrite=overwrite)


@manifest_app.command("merge")
def manifest_merge(
    parts: Annotated[list[str], typer.Argument(metavar="NAME=FACES.csv...", help="Manifests; NAME goes before keys.")],
    output: Output, overwrite: Overwrite = False,
) -> Report:
    """Several manifests into one; extract it with --root NAME=DIR for each."""
    from twofold.data.manifest import read_manifest
    from twofold.data.merge import merge
    from twofold.data.utils.errors import InputError

    paths = {name: Path(path) for name, _, path in (part.partition("=") for part in parts) if name and path}
    if len(paths) < len(parts):
        raise InputError("manifests to merge are given as NAME=FACES.csv, each name once")
    merged = merge({name: read_manifest(path) for name, path in paths.items()})
    return write_faces(merged, output, list(paths.values()), overwrite=overwrite)


@manifest_app.command("split")
def manifest_split(
    faces: Table, output: Output,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of faces for val.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of faces for test.")] = 0.2,
    folds: Annotated[int, typer.Option(min=0, help="Write a column `fold` of this many folds instead.")] = 0,
    only: Annotated[str | None, typer.Option(help="Divide the faces of this split; others stay as they are.")] = None,
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Leave out its faces of groups elsewhere.")] = False,
    target: Annotated[str, typer.Option(help="Labels in proportion: compound, basic, your column; auto.")] = "auto",
    rename: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Only rename splits: val=test.")] = None,
    seed: int = 0,
    overwrite: Overwrite = False,
) -> Report:
    """Split anew: classes in proportion, no group (subject, video, duplicates) on two sides."""
    from twofold.data.manifest import read_manifest
    from twofold.data.merge import assign_fold_column, drop_leaking_samples, rename_splits, resplit
    from twofold.data.utils.errors import InputError

    table = read_manifest(faces)
    if drop_leaks and not only:
        raise InputError("--drop-leaks leaves faces out of one split: name it with --only (such as --only train)")
    if rename:
        if folds or only or drop_leaks:
            raise InputError("--rename only gives splits other names: leave out --folds, --only and --drop-leaks")
        return write_faces(rename_splits(table, rename), output, [faces], overwrite=overwrite)
    if drop_leaks and only:
        table = drop_leaking_samples(table, only)
    divided = (assign_fold_column(table, folds=folds, target=target, seed=seed, only=only) if folds
               else resplit(table, val=val, test=test, target=target, seed=seed, only=only))
    return write_faces(divided, output, [faces], overwrite=overwrite)


@manifest_app.command("classes")
def manifest_classes(
    classes: Annotated[str, typer.Argument(metavar="[NAME|FILE.toml]", help="One taxonomy; else all.")] = "",
) -> Report:
    """The classes of each taxonomy in order, with their official numbers."""
    from twofold.data.labels import list_taxonomies

    return list_taxonomies(classes)


@manifest_app.command("check")
def manifest_check(
    faces: Table,
    root: Annotated[list[str], typer.Option(help="Folder that keys are relative to (or NAME=DIR, repeatable).")],
    group_duplicates: Annotated[bool, typer.Option("--group-duplicates", help="Write sets into `group`.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="GROUPED.csv", callback=writable,
                                                    help="Where --group-duplicates writes to.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a core.")] = 0,
    overwrite: Overwrite = False,
) -> Report:
    """Missing and damaged files, duplicates, and what leaks across splits."""
    from tqdm import tqdm

    from twofold.data.audit import check_manifest
    from twofold.data.audit import group_duplicates as grouped
    from twofold.data.images.sources import check_roots, open_images, parse_roots
    from twofold.data.manifest import manifest_output, read_manifest, save_manifest
    from twofold.data.utils.errors import InputError

    if (output is not None) != group_duplicates:
        raise InputError("-o is where --group-duplicates writes the grouped manifest: give both or neither")
    place = manifest_output(output, overwrite=overwrite, inputs=[faces]) if output else None
    if place:
        place.check()
    table, source = read_manifest(faces), open_images(parse_roots(root))
    check_roots(source, table.keys)
    with tqdm(total=len(table), unit="face", disable=None) as bar:
        findings = check_manifest(table, source, workers=workers, progress=bar.update)
    if place:
        save_manifest(grouped(findings), place)
        log.info("sets of (near-)identical faces are groups now -> %s", output)
    return findings


def write_faces(
    faces: Manifest, output: Path, inputs: Sequence[Path] = (), *, overwrite: bool, classes: Taxonomy | None = None,
) -> ManifestReport:
    """Write a manifest; what its reader noticed is logged."""
    from twofold.data.manifest import ManifestReport, manifest_output, save_manifest
    from twofold.data.utils.errors import InputError
    from twofold.data.utils.keys import ambiguous_keys

    place = manifest_output(output, overwrite=overwrite, inputs=inputs)
    for note in (*faces.notes, *ambiguous_keys(faces.keys)):
        log.warning("warning: %s", note)
    if not len(faces):
        raise InputError(f"no faces: {output} is not written")
    save_manifest(faces, place)
    own = [classes.target] if classes and classes.target not in ("basic", "compound") else []
    return ManifestReport(faces, output, ("basic", "compound", *own))


Detector = Annotated[Path | None, typer.Option(help="YuNet's ONNX file, where not in the weights folder.")]


def _with_crop_settings(verb: Callable[..., Report]) -> Callable[..., Report]:
    """The verb with an option for each field of `CropSettings`; they reach it as the dict `changes`."""
    from twofold.data.faces.settings import CropSettings
    from twofold.data.utils.options import with_options

    return with_options(CropSettings)(verb)


@_with_crop_settings
def crop(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photographs, videos, folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for faces.csv and images/.")],
    changes: dict[str, Any],
    fps: Annotated[float, typer.Option(help="Videos: use that many frames a second; 0 is all.")] = 0.0,
    every: Annotated[int, typer.Option(help="Videos: use each N-th frame.")] = 1,
    detector: Detector = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads; 0 takes one a core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a faces.csv that was changed since.")] = False,
) -> Report:
    """Photographs and videos to aligned faces: DIR/faces.csv, a manifest, and DIR/images/."""
    from twofold.data.faces.crop import CropRequest
    from twofold.data.faces.crop import crop as run_crop
    from twofold.data.faces.detectors import open_detector
    from twofold.data.faces.settings import CropSettings, Sampling

    settings = CropSettings(**{name: value for name, value in changes.items() if value is not None})
    request = CropRequest(inputs=inputs, out=out, settings=settings, sampling=Sampling(fps=fps, every=every),
                          workers=workers, overwrite=overwrite)
    return run_crop(request, open_detector(detector))
