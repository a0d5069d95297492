"""The verbs of `manifest`, one per reader from its registry entry, and merge, derive, split, check, classes; `crop`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from twofold import Report
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import with_options, with_signature
from twofold.data.utils.terminal import Summary, with_json_option

if TYPE_CHECKING:
    from twofold.data.manifest import Manifest

log = logging.getLogger(__name__)


class ReaderGroup(TyperGroup):
    """`manifest` with a verb for each reader; help lists them all, and only the one that is called is imported."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        from twofold.data.readers import reader_help

        self.readers = reader_help()
        for name, text in self.readers.items():
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.readers:
            self.add_command(reader_command(args[0], self.readers[args[0]]))
        return super().resolve_command(ctx, args)


manifest_app = typer.Typer(cls=ReaderGroup, no_args_is_help=True,
                           help="Index a dataset into a manifest, a table of samples; merge, split, check it.")


Output = Annotated[Path, typer.Option("-o", "--output", metavar="FACES.csv", help="The manifest to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another manifest that is there.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read images that are links out of their root.")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The dataset's folder or archive.")]
Table = Annotated[Path, typer.Argument(metavar="FACES.csv", help="A manifest.")]


def reader_command(name: str, about: str) -> Any:
    """The verb of a reader: its root, the annotated arguments of its function, and where to write the manifest."""
    from twofold.data.readers import load_reader

    read = load_reader(name)

    def run(output: Path, overwrite: bool, **values: Any) -> Report:
        from twofold.data.labels import load_taxonomy

        inputs = [value for value in values.values() if isinstance(value, Path)]
        own = load_taxonomy(values["classes"]).target if values.get("classes") else ""
        return save_samples(lambda: read(**values), output, inputs, overwrite=overwrite, label=own)

    root, *options = inspect.signature(read, eval_str=True).parameters.values()
    own, keyword = get_origin(root.annotation) is Annotated, inspect.Parameter.KEYWORD_ONLY
    verb = with_signature(read, run, [
        root.replace(annotation=root.annotation if own else Root, kind=keyword),
        inspect.Parameter("output", keyword, annotation=Output),
        *options, inspect.Parameter("overwrite", keyword, default=False, annotation=Overwrite)])
    app = typer.Typer(add_completion=False)
    app.command(name, help=about)(with_json_option(verb))
    return typer.main.get_command(app)


def save_samples(
    make: Callable[[], Manifest], output: Path, inputs: Sequence[Path] = (), *, overwrite: bool, label: str = "",
) -> Report:
    """Make a manifest and write it, where `output` may be written; what its reader noticed is logged.

    label: the column of the user's own labels, if any.
    """
    from twofold.data.labels import OWN_COLUMN
    from twofold.data.manifest import manifest_output
    from twofold.data.targets import summary_lines
    from twofold.data.utils.csv_files import table_to_csv
    from twofold.data.utils.keys import ambiguous_keys

    place = manifest_output(output, overwrite=overwrite, inputs=inputs)
    place.check()
    samples = make()
    for note in (*samples.notes, *ambiguous_keys(samples.keys)):
        log.warning("warning: %s", note)
    if not len(samples):
        raise InputError(f"no samples: {output} is not written")
    place.write_text(table_to_csv(samples.table))
    table = samples.table
    labels = [name for name in dict.fromkeys(("basic", "compound", label or OWN_COLUMN)) if name in table]
    return Summary([f"{len(samples):,} samples -> {output}", *summary_lines(samples, labels)], {
        "manifest": str(output), "samples": len(samples), "notes": list(samples.notes),
        **{name: table[name].value_counts().to_dict() for name in ("split", *labels)},
        "groups": int(table.loc[table["group"] != "", "group"].nunique())})


@manifest_app.command("merge")
def manifest_merge(
    parts: Annotated[list[str], typer.Argument(metavar="NAME=FACES.csv...", help="Manifests; NAME goes before keys.")],
    output: Output,
    by_key: Annotated[bool, typer.Option("--by-key", help="They are of one root: unite what each says of a key.")]
    = False,
    overwrite: Overwrite = False,
) -> Report:
    """Merge several manifests into one; extract it with --root NAME=DIR for each."""
    from twofold.data.manifest import merge, merge_by_key, read_manifest

    paths = {name: Path(path) for name, _, path in (part.partition("=") for part in parts) if name and path}
    if by_key and not any("=" in part for part in parts):
        paths = {part: Path(part) for part in parts}
    if len(paths) < len(parts):
        raise InputError("manifests to merge are given as NAME=FACES.csv, each name once")
    unite = merge_by_key if by_key else merge
    return save_samples(lambda: unite({name: read_manifest(path) for name, path in paths.items()}), output,
                        list(paths.values()), overwrite=overwrite)


@manifest_app.command("derive")
def manifest_derive(
    manifest: Table, output: Output,
    second: Annotated[float, typer.Option(min=0, max=1, help="Least share of the second emotion.")] = 0.2,
    both: Annotated[float, typer.Option(min=0, max=1, help="Least share of both emotions together.")] = 0.5,
    over_neutral: Annotated[float, typer.Option(min=-1, max=1, help="Least lead of the second over neutral.")] = 0.0,
    overwrite: Overwrite = False,
) -> Report:
    """Compound labels from soft labels of basic emotions: the two largest, if they are clear."""
    from twofold.data.manifest import read_manifest
    from twofold.data.targets import with_derived_compounds

    return save_samples(lambda: with_derived_compounds(
        read_manifest(manifest), second=second, both=both, over_neutral=over_neutral), output, [manifest],
        overwrite=overwrite)


@manifest_app.command("split")
def manifest_split(
    manifest: Table, output: Output,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of samples for val.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of samples for test.")] = 0.2,
    folds: Annotated[int, typer.Option(min=0, help="Write a column `fold` of this many folds instead.")] = 0,
    only: Annotated[str | None, typer.Option(help="Divide the samples of this split; others stay as they are.")] = None,
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Leave out its samples that leak.")] = False,
    target: Annotated[str, typer.Option(help="Labels in proportion: compound, basic, your column; auto.")] = "auto",
    rename: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Only rename splits: val=test.")] = None,
    seed: int = 0,
    overwrite: Overwrite = False,
) -> Report:
    """Split anew: classes in proportion, no group (subject, video, duplicates) on two sides."""
    from twofold.data.manifest import read_manifest
    from twofold.data.splits import assign_fold_column, drop_leaking_samples, rename_splits, resplit

    if drop_leaks and not only:
        raise InputError("--drop-leaks leaves samples out of one split: name it with --only (such as --only train)")
    if rename and (folds or only):
        raise InputError("--rename only gives splits other names: leave out --folds, --only and --drop-leaks")

    def divided() -> Manifest:
        table = read_manifest(manifest)
        if drop_leaks and only:
            table = drop_leaking_samples(table, only)
        if rename:
            return rename_splits(table, rename)
        if folds:
            return assign_fold_column(table, folds=folds, target=target, seed=seed, only=only)
        return resplit(table, val=val, test=test, target=target, seed=seed, only=only)

    return save_samples(divided, output, [manifest], overwrite=overwrite)


@manifest_app.command("classes")
def manifest_classes(
    classes: Annotated[str, typer.Argument(metavar="[NAME|FILE.toml]", help="One taxonomy; else all.")] = "",
) -> Report:
    """The classes of each taxonomy in order, with their official numbers."""
    from twofold.data.labels import TAXONOMIES, load_taxonomy, taxonomy_record

    listed = (load_taxonomy(classes),) if classes else TAXONOMIES
    lines = [line for each in listed for line in ("", *each.lines())]
    return Summary(lines[1:], {"taxonomies": [taxonomy_record(each) for each in listed]})


@manifest_app.command("check")
def manifest_check(
    manifest: Table,
    root: Annotated[list[str], typer.Option(help="Folder that keys are relative to (or NAME=DIR, repeatable).")],
    group_duplicates: Annotated[bool, typer.Option("--group-duplicates", help="Write sets into `group`.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="GROUPED.csv",
                                                    help="Where --group-duplicates writes to.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a core.")] = 0,
    follow_links: FollowLinks = False,
    overwrite: Overwrite = False,
) -> Report:
    """Missing and damaged files, duplicates, and what leaks across splits."""
    from tqdm import tqdm

    from twofold.data import audit
    from twofold.data.images.sources import check_roots, open_images, parse_roots
    from twofold.data.manifest import manifest_output, read_manifest
    from twofold.data.utils.csv_files import table_to_csv

    if (output is not None) != group_duplicates:
        raise InputError("-o is where --group-duplicates writes the grouped manifest: give both or neither")
    place = manifest_output(output, overwrite=overwrite, inputs=[manifest]) if output else None
    if place:
        place.check()
    table, source = read_manifest(manifest), open_images(parse_roots(root), follow_links=follow_links)
    check_roots(source, table.keys)
    with tqdm(total=len(table), unit="sample", disable=None) as bar:
        findings = audit.check_manifest(table, source, workers=workers, progress=bar.update)
    if place:
        place.write_text(table_to_csv(audit.group_duplicates(findings).table))
        log.info("sets of (near-)identical pictures are groups now -> %s", output)
    return findings


Detector = Annotated[Path | None, typer.Option(help="YuNet's ONNX file, where not in the weights folder.")]


def crop_verb(open_identity: Callable[..., Any]) -> Callable[..., Report]:
    """The verb `crop`. open_identity: of stage one (`extract.cli`), which this package does not import."""
    from twofold.data.faces.settings import CropSettings

    @with_options(CropSettings)
    def crop(
        inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photographs, videos, folders of them.")],
        out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for faces.csv and images/.")],
        changes: dict[str, Any],
        fps: Annotated[float, typer.Option(help="Videos: use that many frames a second; 0 is all.")] = 0.0,
        every: Annotated[int, typer.Option(help="Videos: use each N-th frame.")] = 1,
        classes: Annotated[str, typer.Option(help="Taxonomy, or FILE.toml, of class folders with its names or "
                                                  "numbers.")] = "",
        label_map: Annotated[list[str] | None, typer.Option(
            "--map", metavar="OLD=NEW", help="A class folder by another name (repeatable).")] = None,
        follow_links: FollowLinks = False,
        detector: Detector = None,
        workers: Annotated[int, typer.Option(min=0, help="Threads; 0 takes one a core.")] = 0,
        identity: Annotated[str, typer.Option(metavar="NAME", help="Videos: tell people apart by this backbone, which "
                                              "should be one for face recognition, such as onnx:PATH.")] = "",
        same_person: Annotated[float | None, typer.Option(help="Least cosine similarity of one person (else 0.4).")]
        = None,
        weights: Annotated[list[str] | None, typer.Option(help="Of --identity: NAME=PATH.")] = None,
        session: Annotated[bool, typer.Option("--session", help="People keep their number from file to file.")] = False,
        group: Annotated[str, typer.Option(help="The column group: source or person.")] = "source",
        device: Annotated[str, typer.Option(help="Of --identity: auto, cpu, cuda, cuda:1, mps.")] = "auto",
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a faces.csv changed since.")] = False,
    ) -> Report:
        """Photographs and videos to aligned faces: DIR/faces.csv, a manifest, and DIR/images/.

        In class folders (class/*.jpg or split/class/*.jpg), faces have the label of their folder. Animations and TIFFs
        of several pages are read as short videos. Images are JPEG, PNG, BMP, GIF, TIFF, WebP, PPM, JPEG 2000, AVIF and
        HEIC, up to 256 MB, 64 megapixels (a larger JPEG is decoded smaller) and 60 seconds of decoding. Other files of
        a folder are left out and counted; what cannot be read is a row with its reason, and exit code 1.
        """
        from twofold.data.faces.crop import crop as run_crop
        from twofold.data.faces.detectors import open_detector
        from twofold.data.faces.settings import Sampling
        from twofold.data.faces.sources import find_sources
        from twofold.data.readers.folder import folder_labels

        if group not in ("source", "person"):
            raise InputError(f"--group {group!r}: choose source or person")
        if not identity and (session or same_person is not None or group == "person"):
            raise InputError("--session, --same-person and --group person are about people: say with --identity NAME "
                             "which backbone tells them apart")
        settings = CropSettings(**{name: value for name, value in changes.items() if value is not None})
        sampling, labels = Sampling(fps=fps, every=every), folder_labels(classes=classes, label_map=label_map)
        sources = find_sources(inputs, ignore=out, labels=labels, follow_links=follow_links)
        people = open_identity(identity, weights or [], threshold=same_person, session=session,
                               device=device) if identity else None
        return run_crop(sources, out, open_detector(detector), settings=settings, sampling=sampling, workers=workers,
                        overwrite=overwrite, identity=people, by_person=group == "person")

    return crop
