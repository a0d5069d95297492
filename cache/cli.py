"""The verbs of `cache`: parse, call one function, return its report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from twofold import Report

app = typer.Typer(no_args_is_help=True, help="Look at, check, combine and move stores of features.")

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="A store: a folder of feature files.")]
Url = Annotated[str, typer.Argument(metavar="URL", help="A folder, ssh://, sftp://, s3://, ...; http(s):// to read.")]
Replace = Annotated[bool, typer.Option("--overwrite", "--replace", help="Replace other contents of the same name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older one of ours.")]
Backbones = Annotated[str | None, typer.Option(help="Comma-separated, NAME or NAME@FINGERPRINT; else all.")]


@app.command("ls")
def cache_ls(
    store: Annotated[str, typer.Argument(metavar="STORE|URL", help="A store, or where one was pushed to.")],
) -> Report:
    """List the feature files of a store, here or shared elsewhere."""
    if "://" in store:
        from twofold.cache.share.transfer import shared_listing

        return shared_listing(store)
    from twofold.cache.report import listing

    return listing(Path(store))


@app.command("show")
def cache_show(
    file: Annotated[Path, typer.Argument(metavar="FILE.h5", help="A feature file, or a store for all of them.")],
    failures: Annotated[bool, typer.Option("--failures", help="List the samples without features, and why.")] = False,
) -> Report:
    """Print how a feature file was made, or which samples are not in it."""
    from twofold.cache.report import describe

    return describe(file, failures=failures)


@app.command("verify")
def cache_verify(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or one feature file.")],
    deep: Annotated[bool, typer.Option("--deep", help="Also look for suspicious values.")] = False,
    root: Annotated[list[str] | None, typer.Option(help="Hash each image below it (or NAME=DIR, repeatable).")] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Read images that are links out of their root.")]
    = False,
) -> Report:
    """Read everything back and check it."""
    from twofold.cache.verify import verify
    from twofold.data.images.sources import hash_images, open_images, parse_roots

    images = partial(hash_images, open_images(parse_roots(root), follow_links=follow_links)) if root else None
    return verify(store, deep=deep, images=images)


@app.command("merge")
def cache_merge(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE STORE...", help="Stores of images below one root.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The merged store; it may exist.")],
) -> Report:
    """Merge stores: other backbones and views side by side, other samples of one recipe in one file."""
    from twofold.cache.merge import merge
    from twofold.cache.store import Store
    from twofold.data.manifest import merge_by_key, read_manifest, write_manifest

    sources, target = [Store(path) for path in stores], Store(out, new=True)
    target.require_own_folder()
    paths = [store.manifest_path for store in ([target] if target.manifest_path.exists() else []) + sources]
    manifest = merge_by_key({str(path): read_manifest(path) for path in paths})
    report = merge(sources, target, manifest.keys)
    write_manifest(manifest, target.manifest_path)
    return report


@app.command("diff")
def cache_diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A store or a feature file.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> Report:
    """Compare two stores or files: recipes, samples, images, values."""
    from twofold.cache.diff import diff

    return diff(a, b)


@app.command("card")
def cache_card(store: StorePath, overwrite: Overwrite = False) -> Report:
    """Write STORE/README.md, the page that the Hugging Face hub shows of a pushed store."""
    from twofold.cache.card import CARD, card_page, is_card
    from twofold.data.utils.outputs import Output, OutputKind, read_head

    page, report = card_page(store)
    kind = OutputKind("a card that Twofold wrote", lambda path: is_card(read_head(path)), repeatable=True)
    Output(store / CARD, kind, overwrite).write_text(page)
    return report


@app.command("export")
def cache_export(
    store: StorePath,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="NAME.npz or NAME.parquet.")],
    backbones: Backbones = None,
    view: Annotated[str, typer.Option(help="The view of the samples.")] = "original",
    overwrite: Overwrite = False,
) -> Report:
    """Write features with labels, splits and groups for other programs."""
    from twofold.cache.export import export_format, join_files
    from twofold.cache.store import Store
    from twofold.data.utils.options import split_names
    from twofold.data.utils.outputs import Output

    source, (kind, write) = Store(store), export_format(out)
    export = join_files(source, backbones=split_names(backbones or ""), view=view)
    inputs = [source.manifest_path, *(file.path for file in export.files)]
    with Output(out, kind, overwrite, inputs).writing() as temporary:
        write(temporary, export)
    return export.report(out)


@app.command("push")
def cache_push(store: StorePath, url: Url, replace: Replace = False) -> Report:
    """Copy a store to a remote place: send what it lacks, verified there, and a catalogue."""
    from twofold.cache.share.transfer import push
    from twofold.cache.store import Store

    return push(Store(store), url, replace=replace)


@app.command("pull")
def cache_pull(url: Url, store: StorePath, backbones: Backbones = None, replace: Replace = False) -> Report:
    """Fetch what is missing here of a remote store, verified; the same command resumes after an interruption."""
    from twofold.cache.share.transfer import pull
    from twofold.cache.store import Store
    from twofold.data.utils.options import split_names

    names = None if backbones is None else split_names(backbones)
    return pull(url, Store(store, new=True), backbones=names, replace=replace)


def bench_cache(
    rows: Annotated[int, typer.Option(min=1, help="Samples.")] = 200_000,
    dim: Annotated[int, typer.Option(min=1, help="Numbers per sample.")] = 768,
    folder: Annotated[Path | None, typer.Option(help="Where to write; by default the temporary folder.")] = None,
) -> Report:
    """Feature files against plain NumPy files."""
    from twofold.cache.bench import bench_cache as run_bench

    return run_bench(rows=rows, dim=dim, folder=folder)
