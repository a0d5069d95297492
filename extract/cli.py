"""The verbs of stage one: parse, call one function, return its report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold import Report

if TYPE_CHECKING:
    from twofold.cache.recipe import Recipe
    from twofold.data.faces.identity import IdentityModel
    from twofold.extract.portable import ExportedEncoders

app = typer.Typer()
weights_app = typer.Typer(no_args_is_help=True, help="Which weights each backbone needs, and where they are.")

Faces = Annotated[Path, typer.Argument(metavar="FACES.csv", help="The manifest of faces.")]
Roots = Annotated[list[str], typer.Option("--root", help="Folder that keys are relative to (or NAME=DIR, repeatable).")]
Backbones = Annotated[str, typer.Option(help="Comma-separated: presets, timm:NAME, torchvision:NAME, onnx:PATH.")]
Weights = Annotated[list[str] | None, typer.Option(
    help="NAME=PATH (the --out of `finetune --folds`: every fold's), NAME=random:SEED or NAME=hub.")]
Precision = Annotated[str, typer.Option(help="auto (decided once for a store), fp32, bf16 or fp16.")]
Decoder = Annotated[str, typer.Option(help="pillow, or fast: resized by torch, which changes some values a little.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one per core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older file of the same verb.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read images that are links out of their root.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; `extract` takes several: cuda:0,cuda:1.")]
PRESETS = "vit_mae,posterv2,resnet18,resnet50"


@app.command()
def extract(
    context: typer.Context,
    faces: Faces,
    root: Roots,
    store: Annotated[Path, typer.Option(help="Folder for the features; made if missing.")],
    backbones: Backbones = PRESETS,
    views: Annotated[str, typer.Option(
        help="Of original, flip, crop_left, crop_centre, crop_right, enhanced1, enhanced2.")] = "original",
    weights: Weights = None,
    classes_of: Annotated[list[str] | None, typer.Option(
        help="NAME=ORDER: class order of a classifier (a taxonomy, alphabetical:TAXONOMY, names).")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    dtype: Annotated[str, typer.Option(help="Stored values: float16 or float32.")] = "float16",
    decoder: Decoder = "pillow",
    batch_size: Annotated[int, typer.Option(min=0, max=65_536, help="Samples a forward pass; 0: as usual.")] = 0,
    workers: Workers = 0,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n slices, from 0; or auto, from RANK or SLURM.")] = "",
    max_failures: Annotated[int, typer.Option(min=-1, help="Stop after more failures than this; -1: never.")] = -1,
    shard_rows: Annotated[int, typer.Option(min=1, help="Samples that a crash repeats at most.")] = 2048,
    replace_manifest: Annotated[bool, typer.Option(
        "--replace-manifest", help="Take another dataset's manifest; compares every image.")] = False,
    retry_failures: Annotated[bool, typer.Option("--retry-failures", help="Try failed samples again.")] = False,
    recheck: Annotated[bool, typer.Option("--recheck", help="Hash every image; recompute changed ones.")] = False,
    with_logits: Annotated[bool, typer.Option("--with-logits", help="Insist on backbones' own classifiers.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, max=178_000_000, help="A larger picture fails.")] = 25_000_000,
    follow_links: FollowLinks = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile at the networks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and stop.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Compute on Ray: local, auto, HOST:PORT.")] = None,
    ray_workers: Annotated[int, typer.Option(min=0, help="Workers on it at most; 0: as there is room now.")] = 0,
    slurm: Annotated[str | None, typer.Option(
        metavar="OPTIONS", help="Submit it as an array job with these options of sbatch.")] = None,
    slurm_script: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write the job script, submit nothing.")] = None,
    slurm_tasks: Annotated[int, typer.Option(help="Tasks of the array job, a shard each.")] = 4,
    overwrite: Overwrite = False,
) -> Report:
    """Run each backbone once over all samples and write the embeddings.

    Images are JPEG, PNG, BMP, GIF, TIFF, WebP, PPM, JPEG 2000, AVIF and HEIC. One that cannot be read, is larger than
    256 MB or --max-pixels, or takes 60 seconds to decode is a recorded failure with its reason: the others go on.
    """
    from twofold.data.utils.errors import InputError
    from twofold.data.utils.options import split_names
    from twofold.extract.cluster.ray import connected
    from twofold.extract.cluster.slurm import submit_or_write
    from twofold.extract.extract import extract as run_extract
    from twofold.extract.plan import ExtractOptions, open_workspace
    from twofold.extract.streams import parse_streams

    streams = parse_streams(split_names(backbones), split_names(views), weights=weights or [], dtype=dtype,
                            classes_of=classes_of or [], precision=precision, decoder=decoder, batch_size=batch_size,
                            compiled=compiled)
    options = ExtractOptions(workers=workers, shard=shard, max_failures=max_failures, shard_rows=shard_rows,
                             retry_failures=retry_failures, recheck=recheck, with_logits=with_logits,
                             replace_manifest=replace_manifest)
    workspace = open_workspace(faces, root, store, max_pixels=max_pixels, follow_links=follow_links)
    on_slurm = slurm is not None or slurm_script is not None
    if dry_run or (ray is None and not on_slurm):
        return run_extract(workspace, streams, options, device=device, dry=dry_run)
    if ray is not None and not on_slurm:
        with connected(ray, device=device, cpus=workers, most=ray_workers) as cluster:
            return run_extract(workspace, streams, options, cluster=cluster)
    if ray is not None or shard:
        raise InputError("--slurm gives each task its shard: leave out --shard" if ray is None else
                         "--ray and --slurm are two ways to do the same: choose one")
    words = command_words(context, without=("slurm", "slurm_script", "slurm_tasks", "shard", "overwrite", "as_json"))
    return submit_or_write(words, options=slurm or "", tasks=slurm_tasks, path=slurm_script, overwrite=overwrite)


def command_words(context: typer.Context, *, without: Collection[str]) -> list[str]:
    """Return the words of the running command: its arguments and the options that are not at their default."""
    words: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in without or value is None or value == parameter.default:
            continue
        if isinstance(value, bool):
            words += [(parameter.opts if value else parameter.secondary_opts)[0]]
            continue
        flag = [] if parameter.param_type_name == "argument" else parameter.opts[:1]
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [*flag, str(item)]
    return words


def with_settings(verb: Callable[..., Report]) -> Callable[..., Report]:
    """The verb with an option for each field of finetune's `Settings`; they reach it as the dict `changes`."""
    from twofold.data.utils.options import with_options
    from twofold.extract.finetune.settings import Settings

    return with_options(Settings)(verb)


@app.command()
@with_settings
def finetune(
    faces: Faces,
    root: Roots,
    backbone: Annotated[str, typer.Option(help="A preset, timm:NAME or torchvision:NAME.")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The weights file to write.")],
    changes: dict[str, Any],
    weights: Annotated[str | None, typer.Option(help="To start from: PATH, random:SEED or hub; with --folds also the "
                                                     "--out of an earlier `finetune --folds`.")] = None,
    preset: Annotated[str, typer.Option(help="quick, unified, compound or paper.")] = "quick",
    device: Device = "auto",
    memory_gb: Annotated[float, typer.Option(min=0, help="For decoded faces; 0: half of what is free.")] = 0.0,
    minutes: Annotated[float, typer.Option(min=0, help="Between states on disk, from which a stopped one goes on.")]
    = 5.0,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard, too.")] = None,
    overwrite: Overwrite = False,
    follow_links: FollowLinks = False,
    fold: Annotated[int, typer.Option(help="Of --folds the only one to train now, from 1 on; 0: all in turn.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what memory and steps it needs, and stop.")] = False,
) -> Report:
    """Train a backbone on labelled faces; `extract --weights NAME=FILE` takes what it writes."""
    from twofold.extract.finetune.finetune import Request
    from twofold.extract.finetune.finetune import finetune as run_finetune
    from twofold.extract.finetune.settings import resolve

    origin = weights.removeprefix(f"{backbone}=") if weights else None
    return run_finetune(Request(
        manifest=faces, roots=root, backbone=backbone, weights=origin, out=out, device=device, memory_gb=memory_gb,
        settings=resolve(preset=preset, chosen=changes), minutes=minutes, tensorboard=tensorboard,
        overwrite=overwrite, fold=fold, follow_links=follow_links, dry=dry_run))


def licences_of(backbones: Iterable[str]) -> dict[str, str]:
    """The licence of each backbone for which one is stated."""
    from twofold.extract.encoders.presets import licences

    return licences(backbones)


def open_identity(name: str, weights: Sequence[str], *, threshold: float | None, session: bool, device: str
                  ) -> IdentityModel:
    """The network that tells people apart, for `crop --identity`; see `extract.inputs`."""
    from twofold.extract.inputs import open_identity

    return open_identity(name, weights, threshold=threshold, session=session, device=device)


def export_encoders(recipes: Sequence[Recipe], *, weights: Sequence[str], stated: Sequence[str], beside: Path
                    ) -> ExportedEncoders:
    """The encoders of these recipes, for `export --face`; see `extract.portable`."""
    from twofold.extract.portable import export_encoders

    return export_encoders(recipes, weights=weights, stated=stated, beside=beside)


@weights_app.command("ls")
def weights_ls() -> Report:
    """List what each backbone needs, whether it is here, and where to get it."""
    from twofold.extract.encoders.report import listing
    from twofold.extract.weights.find import weights_folder

    return listing(weights_folder())


@weights_app.command("get")
def weights_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, yunet, timm:NAME, torchvision:NAME or "
                                                             "hf:ORG/NAME.")],
) -> Report:
    """Download the weights of a backbone or detector that have a public address; says the licence first."""
    from twofold.extract.download import get

    return get(name)


@weights_app.command("show")
def weights_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, as `weights ls` lists them.")],
    weights: Annotated[Path | None, typer.Option(help="Describe this file instead of the one in the folder.")] = None,
) -> Report:
    """Print all that is known of a backbone, and check its weights file if it is here."""
    from twofold.extract.encoders.report import description
    from twofold.extract.weights.find import weights_folder

    return description(name, folder=weights_folder(), weights=weights)


@weights_app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A weights file of any kind.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it, as .safetensors.")],
    entry: Annotated[str, typer.Option(help="Where in the file they are, of several: model, student.backbone.")] = "",
    classes: Annotated[str, typer.Option(help="Order of its classes: a data set, taxonomy or names.")] = "",
    half: Annotated[bool, typer.Option("--half", help="Round to float16: half the size.")] = False,
    overwrite: Overwrite = False,
) -> Report:
    """Turn a published file into plain data, and say what was in it; nothing in it is run."""
    from twofold.extract.encoders.classifier import class_order
    from twofold.extract.encoders.report import convert

    return convert(source, out, entry=entry, classes=class_order(classes) if classes else (), half=half,
                   overwrite=overwrite)


@app.command()
def doctor(
    store: Annotated[Path, typer.Option(help="Where stores are or will be: is the file system fit?")] = Path("."),
    manifest: Annotated[Path | None, typer.Option(help="Bytes and hours to expect for these faces.")] = None,
    backbones: Backbones = PRESETS,
) -> Report:
    """What works on this machine, what is missing, what to do."""
    from twofold.data.utils.options import split_names
    from twofold.extract.doctor import diagnose

    return diagnose(store=store, manifest=manifest, backbones=split_names(backbones))


def bench_extract(
    faces: Annotated[Path | None, typer.Argument(metavar="FACES.csv", help="A manifest; drawn faces if none.")] = None,
    root: Annotated[list[str] | None, typer.Option(help="Folder that its keys are relative to.")] = None,
    backbones: Backbones = PRESETS,
    weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "auto",
    decoder: Decoder = "pillow",
    workers: Workers = 0,
    samples: Annotated[int, typer.Option(min=1, help="Samples to measure with.")] = 512,
    follow_links: FollowLinks = False,
) -> Report:
    """Each stage of extraction alone, extraction as a whole, and what limits it."""
    from twofold.data.utils.options import split_names
    from twofold.extract.bench import bench_extract as run_bench
    from twofold.extract.streams import parse_streams

    names = split_names(backbones)
    texts = weights or ([] if faces else [f"{name}=random:0" for name in names])
    streams = parse_streams(names, weights=texts, precision=precision, decoder=decoder)
    return run_bench(streams, manifest=faces, roots=root or [], device=device, workers=workers, samples=samples,
                     follow_links=follow_links)
