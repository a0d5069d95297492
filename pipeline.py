"""Twofold's command line: parse, call one function, print what it made."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True,
                  help="Compound facial expressions from cached features: extract once, fuse in seconds.")
manifest_app = typer.Typer(no_args_is_help=True, help="Index a dataset into a table of faces; merge, split, check it.")
cache_app = typer.Typer(no_args_is_help=True, help="Look at, check, combine and move stores of features.")
weights_app = typer.Typer(no_args_is_help=True, help="Which weights each backbone needs, and where they are.")
bench_app = typer.Typer(no_args_is_help=True, help="How near this machine is to its limit, and what is in the way.")
app.add_typer(manifest_app, name="manifest")
app.add_typer(cache_app, name="cache")
app.add_typer(weights_app, name="weights")
app.add_typer(bench_app, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of text.")]
StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="A store: a folder of feature files.")]
Backbones = Annotated[str, typer.Option(help="Comma-separated: presets, timm:NAME, torchvision:NAME, onnx:PATH.")]
Views = Annotated[str, typer.Option(help="Comma-separated: original, flip, enhanced1, enhanced2.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; `extract` takes several: cuda:0,cuda:1.")]

PRESETS = "vit_mae,posterv2,resnet18,resnet50"
DEMO_FACES_PER_CLASS = 20


# ----------------------------------------------------------------------------------------------------- manifest
Output = Annotated[Path, typer.Option("-o", "--output", metavar="FACES.csv", help="The manifest to write.")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The dataset's folder; keys are relative to it.")]
Table = Annotated[Path, typer.Argument(metavar="FACES.csv", help="A manifest.")]


@manifest_app.command("csv")
def manifest_csv(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="One row a face, with a header line.")],
    output: Output,
    key: Annotated[str, typer.Option(help="Column of image paths.")] = "key",
    split: Annotated[str, typer.Option(help="Column of train, val, test.")] = "",
    basic: Annotated[str, typer.Option(help="Column of basic emotions.")] = "",
    compound: Annotated[str, typer.Option(help="Column of compound expressions.")] = "",
    group: Annotated[str, typer.Option(help="Column of what must stay on one side: subject, duplicates.")] = "",
    classes: Annotated[str, typer.Option(help="Taxonomy whose official numbers the labels are.")] = "",
    from_zero: Annotated[bool, typer.Option("--from-zero", help="Numbers are places in its order, from 0.")] = False,
    as_json: Json = False,
) -> None:
    """Any CSV table; say which column is what."""
    from data.labels import taxonomy
    from data.readers.csv import read_csv

    write_faces(read_csv(table, key=key, split=split, basic=basic, compound=compound, group=group,
                         classes=taxonomy(classes) if classes else None, from_zero=from_zero), output, as_json)


@manifest_app.command("folder")
def manifest_folder(
    root: Root, output: Output,
    classes: Annotated[str, typer.Option(help="Taxonomy whose official numbers name the class folders.")] = "",
    as_json: Json = False,
) -> None:
    """Class folders: split/class/*.jpg or class/*.jpg."""
    from data.labels import taxonomy
    from data.readers.folder import read_folder

    write_faces(read_folder(root, classes=taxonomy(classes) if classes else None), output, as_json)


@manifest_app.command("rafdb")
def manifest_rafdb(
    root: Root, output: Output,
    part: Annotated[str, typer.Option(help="basic, compound or both.")] = "compound",
    images: Annotated[str, typer.Option(help="aligned or original.")] = "aligned",
    as_json: Json = False,
) -> None:
    """RAF-DB: the folder that holds basic/ and compound/, as published or repackaged into class folders."""
    from data.readers.rafdb import read_rafdb

    write_faces(read_rafdb(root, part=part, images=images), output, as_json)


@manifest_app.command("rafce")
def manifest_rafce(root: Root, output: Output, as_json: Json = False) -> None:
    """RAF-CE: the folder that holds RAFCE_emolabel.txt and aligned/."""
    from data.readers.rafce import read_rafce

    write_faces(read_rafce(root), output, as_json)


@manifest_app.command("affectnet")
def manifest_affectnet(
    root: Root, output: Output,
    classes: Annotated[str, typer.Option(help="basic8, or basic7 without contempt.")] = "basic8",
    crop: Annotated[Path | None, typer.Option(help="Older release: write the faces, cut out, to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """AffectNet: train_set/ and val_set/ of 2021, or the older training.csv and validation.csv."""
    from data.readers.affectnet import read_affectnet

    faces = read_affectnet(root, classes=classes)
    if crop is not None:
        from data.crops import crop_faces

        faces = crop_faces(faces, root, crop)
    write_faces(faces, output, as_json)


@manifest_app.command("fer2013")
def manifest_fer2013(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="fer2013.csv, or the folder that holds it.")],
    output: Output,
    ferplus: Annotated[Path | None, typer.Option(help="fer2013new.csv: votes for basic and compound labels.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Only the clearer compound labels.")] = False,
    unpack: Annotated[Path | None, typer.Option(help="Write the faces as PNG files to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """FER2013, with the votes of FER+: faces are read from inside the csv."""
    from data.readers.fer2013 import read_fer2013
    from data.readers.fer2013 import unpack as run_unpack

    faces = read_fer2013(root, ferplus=ferplus, strict=strict)
    write_faces(run_unpack(faces, root, unpack) if unpack is not None else faces, output, as_json)


@manifest_app.command("cexpr")
def manifest_cexpr(
    root: Root, output: Output,
    template: Annotated[Path | None, typer.Option(help="The submission template: the rows to answer.")] = None,
    annotation: Annotated[Path | None, typer.Option(help="True classes: a table as the template, or a folder.")] = None,
    as_json: Json = False,
) -> None:
    """C-EXPR-DB (ABAW): a folder of cropped frames for each video."""
    from data.readers.cexpr import read_cexpr

    write_faces(read_cexpr(root, template=template, annotation=annotation), output, as_json)


@manifest_app.command("merge")
def manifest_merge(
    parts: Annotated[list[str], typer.Argument(metavar="NAME=FACES.csv...", help="Manifests; NAME goes before keys.")],
    output: Output, as_json: Json = False,
) -> None:
    """Several manifests into one; extract it with --root NAME=DIR for each."""
    from data.combine import merge
    from data.errors import InputError
    from data.manifest import read_manifest

    named = [part.partition("=") for part in parts]
    if not all(name and path for name, _, path in named) or len({name for name, _, _ in named}) < len(named):
        raise InputError("manifests to merge are given as NAME=FACES.csv, each name once")
    write_faces(merge({name: read_manifest(Path(path)) for name, _, path in named}), output, as_json)


@manifest_app.command("split")
def manifest_split(
    faces: Table, output: Output,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of faces for val.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of faces for test.")] = 0.2,
    folds: Annotated[int, typer.Option(min=0, help="Write a column `fold` of this many folds instead.")] = 0,
    only: Annotated[str | None, typer.Option(help="Divide the faces of this split; others stay as they are.")] = None,
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Leave out its faces of groups elsewhere.")] = False,
    target: Annotated[str, typer.Option(help="Keep proportions of compound or basic classes; auto.")] = "auto",
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Split anew: classes in proportion, no group (subject, video, duplicates) on two sides."""
    from data.combine import fold, resplit, without_leaks
    from data.errors import InputError
    from data.manifest import read_manifest

    table = read_manifest(faces)
    if drop_leaks and only is None:
        raise InputError("--drop-leaks leaves faces out of one split: name it with --only (such as --only train)")
    table = without_leaks(table, only) if drop_leaks else table
    made = (fold(table, folds=folds, target=target, seed=seed, only=only) if folds
            else resplit(table, val=val, test=test, target=target, seed=seed, only=only))
    write_faces(made, output, as_json)


@manifest_app.command("check")
def manifest_check(
    faces: Table,
    root: Annotated[list[str], typer.Option(help="Folder that keys are relative to (or NAME=DIR, repeatable).")],
    group_duplicates: Annotated[bool, typer.Option("--group-duplicates", help="Write sets into `group`.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to; or FACES.csv itself.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a core.")] = 0,
    as_json: Json = False,
) -> int:
    """Missing and damaged files, duplicates, and what leaks across splits."""
    from tqdm import tqdm

    from data.check import check
    from data.check import group_duplicates as grouped
    from data.errors import InputError
    from data.faces import open_faces, parse_roots, require_roots
    from data.manifest import read_manifest, write_manifest

    if output is not None and not group_duplicates:
        raise InputError("-o is where --group-duplicates writes the grouped manifest: give both or neither")
    table, source = read_manifest(faces), open_faces(parse_roots(root))
    require_roots(source, table.keys)
    with tqdm(total=len(table), unit="face", disable=None) as bar:
        found = check(table, source, workers=workers, progress=bar.update)
    show(found, as_json)
    if group_duplicates:
        write_manifest(grouped(found), output or faces)
        print(f"sets of (near-)identical faces are groups now -> {output or faces}", file=sys.stderr)
    return found.exit_code


# ---------------------------------------------------------------------------------------------------- stage one
@app.command()
def extract(
    faces: Annotated[Path, typer.Argument(metavar="FACES.csv", help="The manifest of faces.")],
    root: Annotated[list[str], typer.Option(help="Folder that keys are relative to (or NAME=DIR, repeatable).")],
    store: Annotated[Path, typer.Option(help="Folder for the features; made if missing.")],
    backbones: Backbones = PRESETS,
    views: Views = "original",
    weights: Annotated[list[str] | None, typer.Option(help="NAME=PATH, NAME=random:SEED or NAME=hub.")] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Stored values: float16 or float32.")] = "float16",
    batch_size: Annotated[int, typer.Option(min=0, help="Faces per forward pass; 0 finds it.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Decoding threads; 0 takes one a core.")] = 0,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n slices, from 0; or auto, from RANK or SLURM.")] = "",
    max_failures: Annotated[int, typer.Option(min=-1, help="Stop once more faces than this fail; -1 never.")] = -1,
    part_rows: Annotated[int, typer.Option(min=1, help="Faces that a crash repeats at most.")] = 2048,
    retry_failures: Annotated[bool, typer.Option("--retry-failures", help="Try failed faces again.")] = False,
    recheck: Annotated[bool, typer.Option("--recheck", help="Hash every image; recompute changed ones.")] = False,
    with_logits: Annotated[bool, typer.Option("--with-logits", help="Write posterv2's own basic logits, too.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile at the networks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and stop.")] = False,
    as_json: Json = False,
) -> int:
    """Run each backbone once over all faces and write the embeddings."""
    from extract.plan import Settings
    from extract.run import Request
    from extract.run import extract as run_extract

    settings = Settings(dtype=dtype, batch_size=batch_size, workers=workers, shard=shard, max_failures=max_failures,
                        part_rows=part_rows, retry_failures=retry_failures, recheck=recheck,
                        with_logits=with_logits)
    report = run_extract(dry=dry_run, request=Request(
        manifest=faces, roots=root, store=store, backbones=split(backbones), views=split(views),
        weights=weights or [], device=device, precision=precision, settings=settings,
        compiled=compiled))
    show(report, as_json)
    return report.exit_code


# ---------------------------------------------------------------------------------------------------- stage two
Stores = Annotated[list[Path], typer.Argument(metavar="STORE...", help="Stores; the first one's faces are scored.")]


@app.command()
def fuse(
    stores: Stores,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; none: only the table.")] = None,
    preset: Annotated[str, typer.Option(help="default, or paper: the paper's training settings.")] = "default",
    config: Annotated[Path | None, typer.Option(help="Settings from a TOML, or from a run's run.json.")] = None,
    backbones: Annotated[str | None, typer.Option(help="Comma-separated, NAME or NAME@FINGERPRINT; else all.")] = None,
    views: Annotated[str | None, typer.Option(help="Comma-separated: original, flip, enhanced1, enhanced2.")] = None,
    target: Annotated[str | None, typer.Option(help="compound or basic.")] = None,
    classes: Annotated[str | None, typer.Option(help="cexpr7, rafdb11, rafce14, basic7 or basic8.")] = None,
    head: Annotated[str | None, typer.Option(help="paper, linear, mlp, gated, late, logreg or zeroshot.")] = None,
    subsets: Annotated[str | None, typer.Option(help="Beside the fusion: singles, or all subsets.")] = None,
    table: Annotated[str | None, typer.Option(help="plain, or paper: its Tables 1 and 2.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many; trained together.")] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed.")] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation by group instead of the splits.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Of train, where there is no validation.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training faces.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Faces a step.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the hidden layer.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of hidden units.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled, as AdamW.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Epochs of linear warm-up.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant or cosine, after warm-up.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without progress on validation; 0 never ends.")] = None,
    class_weights: Annotated[float | None, typer.Option(help="Power of inverse frequency in the loss, 0-1.")] = None,
    balanced_sampling: Annotated[float | None, typer.Option(help="The same for drawing faces, 0-1.")] = None,
    logit_adjustment: Annotated[float | None, typer.Option(help="Tau; 0 is off.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share spread over all classes.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Alpha of feature mixup; 0 is off.")] = None,
    compound_mixup: Annotated[float | None, typer.Option(help="Share of a batch made from two basics.")] = None,
    stream_dropout: Annotated[float | None, typer.Option(help="Probability to drop a backbone of a face.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the average of weights; 0 is off.")] = None,
    basic_weight: Annotated[float | None, typer.Option(help="Head paper: a of L_ce + a L_basic + b L_CL.")] = None,
    contrastive_weight: Annotated[float | None, typer.Option(help="Head paper: b.")] = None,
    late: Annotated[str | None, typer.Option(help="Head late: mean, weighted or per-class.")] = None,
    rule: Annotated[str | None, typer.Option(
        help="Head zeroshot: threshold, weighted, mean, geometric or harmonic.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Stream features beyond it; 0: half of the free.")] = None,
    as_json: Json = False,
) -> None:
    """Train a head on cached features: each backbone alone, then their fusion, in one table."""
    given = {name: value for name, value in locals().items()
             if name not in ("stores", "out", "preset", "config", "as_json", "backbones", "views")}
    given |= {"backbones": split(backbones) if backbones else None, "views": split(views) if views else None}
    from fuse.fuse import fuse as run_fuse
    from fuse.settings import resolve

    settings = resolve(preset=preset, config=config, given=given)
    show(run_fuse(stores, settings, out=out, say=lambda text: print(text, file=sys.stderr)), as_json)


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `fuse` made.")],
    store: StorePath,
    split: Annotated[str, typer.Option(help="train, val, test or all; by default test if there is any.")] = "",
    table: Annotated[str, typer.Option(help="Runs side by side: plain, or paper, as its Tables 1 and 2.")] = "",
    as_json: Json = False,
) -> None:
    """Score trained heads on another cache, each alone or side by side."""
    from fuse.evaluate import evaluate as run_evaluate
    from fuse.evaluate import evaluate_all

    whisper = partial(print, file=sys.stderr)
    if table or len(runs) > 1:
        show(evaluate_all(runs, store, split=split, table=table or "plain", say=whisper), as_json)
    else:
        show(run_evaluate(runs[0], store, split=split, say=whisper), as_json)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `fuse` made.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders, a manifest or a store.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.csv", help="The table to write.")],
    root: Annotated[list[str] | None, typer.Option(help="Of a manifest: as `extract` wants it.")] = None,
    store: Annotated[Path | None, typer.Option(help="Keep the features here, and use those that are here.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="NAME=PATH, where not in the weights folder.")] = None,
    top: Annotated[int, typer.Option(help="Name that many classes, the likeliest first.")] = 0,
    threshold: Annotated[float, typer.Option(help="Less likely calls are 'uncertain'.")] = 0.0,
    smooth: Annotated[str, typer.Option(help="Videos: box:N, gauss:S or none (fills gaps only).")] = "",
    basic: Annotated[bool, typer.Option("--basic", help="The basic expression too (heads paper, zeroshot).")] = False,
    submission: Annotated[Path | None, typer.Option(help="Write the ABAW submission of this template.")] = None,
    fill_videos: Annotated[bool, typer.Option("--fill-videos", help="Answer videos without any face, too.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Classify faces with a trained head: a row a face, or the file that a challenge wants."""
    import tempfile

    from data.errors import InputError
    from data.inputs import in_store, read_inputs
    from data.manifest import read_manifest, write_manifest
    from fuse.predict import Wish
    from fuse.predict import predict as run_predict
    from fuse.run import read_run

    made = read_run(run)
    wish = Wish(top=top, threshold=threshold, smooth=smooth, basic=basic, template=submission, fill=fill_videos)
    wish.check(made, out)
    whisper = lambda text: print(text, file=sys.stderr)  # noqa: E731
    if len(inputs) == 1 and inputs[0].is_dir() and any(inputs[0].glob("*.h5")):
        if root or store or weights:
            raise InputError(f"{inputs[0]} is a store already: leave out --root, --store and --weights")
        done = run_predict(made, inputs[0], wish, out=out, say=whisper)
        show(done, as_json)
        return done.exit_code
    if len(inputs) == 1 and inputs[0].suffix.lower() == ".csv":
        if not root:
            raise InputError(f"{inputs[0]} is a manifest: say with --root which folder its keys are relative to")
        faces, roots = read_manifest(inputs[0]), root
    else:
        if root:
            raise InputError("--root goes with a manifest; images and folders are where they are")
        faces, common = read_inputs(inputs)
        roots = [str(common)]
    from extract.again import extract_again

    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        place, listed = store or Path(folder, "store"), Path(folder, "faces.csv")
        write_manifest(in_store(faces, place / "manifest.csv"), listed)
        reports = extract_again([recipe for _, _, recipe in made.streams], manifest=listed, roots=roots, store=place,
                                weights=weights or [], device=device, reused=store is not None)
        for report in reports:
            print(report.text(), file=sys.stderr)
        if reports[-1].work.stopped_by:
            return reports[-1].exit_code
        done = run_predict(made, place, wish, out=out, say=whisper)
        show(done, as_json)
    return done.exit_code


@app.command()
def sweep(
    stores: Stores,
    config: Annotated[Path, typer.Option(help="TOML: backbones, heads, seeds, [settings], [grid].")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same one continues it.")] = Path("runs/sweep"),
    jobs: Annotated[int, typer.Option(min=0, help="Processes at once; 0: one a core.")] = 0,
    as_json: Json = False,
) -> int:
    """Many heads: subsets of backbones x heads x settings, one leaderboard by validation."""
    from fuse.sweep import sweep as run_sweep

    report = run_sweep(stores, config, out=out, jobs=jobs, say=lambda text: print(text, file=sys.stderr))
    show(report, as_json)
    return report.exit_code


# --------------------------------------------------------------------------------------------------------- demo
@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    device: Device = "auto",
) -> int:
    """The whole pipeline on drawn faces, with every preset's real architecture, untrained: no data, no network."""
    from data.labels import taxonomy
    from data.manifest import write_manifest
    from data.synthetic import draw_dataset
    from extract.plan import Settings
    from extract.run import Request
    from extract.run import extract as run_extract
    from fuse.fuse import fuse as run_fuse
    from fuse.settings import resolve

    classes = taxonomy("cexpr7")
    manifest = draw_dataset(out / "faces", taxonomy=classes, per_class=DEMO_FACES_PER_CLASS, size=112, seed=0)
    write_manifest(manifest, out / "faces.csv")
    print(f"{len(manifest)} drawn faces of {len(classes.classes)} compound expressions in {out / 'faces'}")
    names = split(PRESETS)
    extracted = run_extract(Request(
        manifest=out / "faces.csv", roots=[str(out / "faces")], store=out / "store", backbones=names,
        views=["original"], weights=[f"{name}=random:0" for name in names], device=device, precision="auto",
        settings=Settings()))
    show(extracted, as_json=False)
    settings = resolve(given={"seeds": 2, "device": device})
    show(run_fuse([out / "store"], settings, out=out / "run"), as_json=False)
    return extracted.exit_code


# -------------------------------------------------------------------------------------------------------- cache
Url = Annotated[str, typer.Argument(metavar="URL", help="A folder, ssh://, sftp://, s3://, ...; http(s):// to read.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace files of the same name and other contents.")]


@cache_app.command("ls")
def cache_ls(
    store: Annotated[str, typer.Argument(metavar="STORE|URL", help="A store, or where one was pushed to.")],
    as_json: Json = False,
) -> None:
    """List the feature files of a store, here or shared elsewhere."""
    if "://" in store:
        from cache.remote import shared_listing

        show(shared_listing(store), as_json)
    else:
        from cache.report import listing

        show(listing(Path(store)), as_json)


@cache_app.command("show")
def cache_show(
    file: Annotated[Path, typer.Argument(metavar="FILE.h5", help="A feature file, or a store for all of them.")],
    as_json: Json = False,
) -> None:
    """Print how a feature file was made, so that a stranger could repeat it."""
    from cache.report import description

    show(description(file), as_json)


@cache_app.command("verify")
def cache_verify(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or one feature file.")],
    deep: Annotated[bool, typer.Option("--deep", help="Look for values that no sound backbone gives, too.")] = False,
    root: Annotated[list[str] | None, typer.Option(help="Hash each image below it (or NAME=DIR, repeatable).")] = None,
    as_json: Json = False,
) -> int:
    """Read everything back and check it; one verdict a file."""
    from cache.verify import verify

    images = None
    if root:
        from data.faces import image_hashes, open_faces, parse_roots

        images = partial(image_hashes, open_faces(parse_roots(root)))
    report = verify(store, deep=deep, images=images)
    show(report, as_json)
    return report.exit_code


@cache_app.command("merge")
def cache_merge(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE STORE...", help="Stores of faces of one root.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The store to make; one that is there takes part.")],
    as_json: Json = False,
) -> None:
    """Several stores into one: other backbones and views side by side, other faces of one recipe in one file."""
    from cache.merge import merge
    from cache.store import Store
    from data.combine import unite
    from data.manifest import read_manifest, write_manifest

    parts = [Store(path) for path in stores]
    into = Store(out, new=True)
    listed = [store for store in (into, *parts) if store in parts or store.manifest_path.exists()]
    faces = unite({str(store.manifest_path): read_manifest(store.manifest_path) for store in listed})
    merged = merge(parts, into, faces.keys)
    write_manifest(faces, into.manifest_path)
    show(merged, as_json)


@cache_app.command("diff")
def cache_diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A store or a feature file.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    as_json: Json = False,
) -> None:
    """What differs between two stores or files: recipes side by side, faces, images, values."""
    from cache.diff import diff

    show(diff(a, b), as_json)


@cache_app.command("push")
def cache_push(store: StorePath, url: Url, replace: Replace = False, as_json: Json = False) -> None:
    """Share a store: send what the other place lacks, verified there, and a catalogue of it."""
    from cache.push import push
    from cache.store import Store

    with transferring() as progress:
        report = push(Store(store), url, replace=replace, progress=progress)
    show(report, as_json)


@cache_app.command("pull")
def cache_pull(
    url: Url, store: StorePath,
    backbones: Annotated[str | None, typer.Option(help="Comma-separated, NAME or NAME@FINGERPRINT; else all.")] = None,
    replace: Replace = False, as_json: Json = False,
) -> None:
    """Fetch a shared store: what is lacking here, verified; the same command goes on after an interruption."""
    from cache.pull import pull
    from cache.store import Store

    with transferring() as progress:
        report = pull(url, Store(store, new=True), backbones=None if backbones is None else split(backbones),
                      replace=replace, progress=progress)
    show(report, as_json)


# -------------------------------------------------------------------------------------------------------- bench
@bench_app.command("cache")
def bench_cache(
    rows: Annotated[int, typer.Option(min=1, help="Faces.")] = 200_000,
    dim: Annotated[int, typer.Option(min=1, help="Numbers a face.")] = 768,
    folder: Annotated[Path | None, typer.Option(help="Where to write; by default the temporary folder.")] = None,
    as_json: Json = False,
) -> None:
    """Feature files against plain files and other HDF5 layouts."""
    from cache.bench import bench_cache as run_bench

    show(run_bench(rows=rows, dim=dim, folder=folder), as_json)


@bench_app.command("fuse")
def bench_fuse(
    sizes: Annotated[str, typer.Option(help="Comma-separated: rafce (3,162 x 2,816), large (100,000 x 4,096).")]
    = "rafce",
    as_json: Json = False,
) -> None:
    """Training from the cache against its bare matrix products, a DataLoader loop and scikit-learn."""
    from fuse.bench import bench_fuse as run_bench

    show(run_bench(sizes=tuple(split(sizes)), say=lambda text: print(text, file=sys.stderr)), as_json)


# ------------------------------------------------------------------------------------------------------ weights
@weights_app.command("ls")
def weights_ls(as_json: Json = False) -> None:
    """List what each backbone needs, whether it is here, and where to get it."""
    from extract.weights import weights_folder
    from extract.weights_report import listing

    show(listing(weights_folder()), as_json)


@weights_app.command("show")
def weights_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, as `weights ls` lists them.")],
    weights: Annotated[Path | None, typer.Option(help="Describe this file instead of the one in the folder.")] = None,
    as_json: Json = False,
) -> None:
    """Print all that is known of a backbone, and check its weights file if it is here."""
    from extract.weights import weights_folder
    from extract.weights_report import description

    show(description(name, folder=weights_folder(), weights=weights), as_json)


@weights_app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A weights file of any kind.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it, as .safetensors.")],
    classes: Annotated[str, typer.Option(help="POSTER++: rafdb, caers, affectnet7 or affectnet8.")] = "",
    as_json: Json = False,
) -> None:
    """Turn a published file into plain data, and say what was in it; nothing in it is run."""
    from extract.conversion import convert

    show(convert(source, out, classes=classes), as_json)


# ------------------------------------------------------------------------------------------------------ helpers
def split(text: str) -> list[str]:
    """Names between commas, in order, without blanks; the commas of `onnx:PATH?mean=0.5,0.5,0.5` part no names."""
    names: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if names and "?" in names[-1] and piece[0] in "-.0123456789":
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    return names


def show(report, as_json: bool) -> None:
    """Print a report for a person (`text()`) or for a program (`record()`)."""
    print(json.dumps(report.record(), indent=2) if as_json else report.text())


@contextlib.contextmanager
def transferring() -> Iterator[Callable[[int, int], None]]:
    """A progress bar of bytes; gives what is to be told of each piece and of how many there will be."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None) as bar:
        def moved(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        yield moved


def write_faces(faces, output: Path, as_json: bool) -> None:
    """Write a manifest, print what it holds, and say on stderr what its reader noticed."""
    from data.errors import InputError
    from data.manifest import write_manifest
    from data.report import Indexed

    for note in faces.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not len(faces):
        raise InputError(f"no faces: {output} is not written")
    write_manifest(faces, output)
    show(Indexed(faces, output), as_json)


def explain(error: Exception) -> tuple[str, int] | None:
    """One sentence and the exit code for an error that a person can mend; None for a defect of ours."""
    from cache.errors import CacheError, TransferError
    from data.errors import InputError

    if isinstance(error, TransferError):
        return str(error), 1
    if isinstance(error, InputError | CacheError):
        return str(error), 2
    if hasattr(error, "format_message"):  # Typer's own: a wrong option, a missing argument
        return error.format_message(), 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full ({error.strerror}): make space and run the same command again; nothing is lost", 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}", 2
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (of this process, unless `arguments` are given); returns the exit code."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        print(explained[0], file=sys.stderr)
        return explained[1]


def log_to_stderr() -> None:
    """What our packages note on the way (weights left aside, a download) goes to stderr; libraries only warn."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("data", "cache", "extract", "fuse"):
        logging.getLogger(package).setLevel(logging.INFO)


if __name__ == "__main__":
    log_to_stderr()
    sys.exit(main())
