"""The verbs of stage two: parse, call one function, return its report."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from twofold import Report

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of text.")]
StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="A store: a folder of feature files.")]
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
) -> Report:
    """Train a head on cached features: each backbone alone, then their fusion, in one table."""
    given = {name: value for name, value in locals().items()
             if name not in ("stores", "out", "preset", "config", "as_json", "backbones", "views")}
    from twofold.cache.names import names_in
    from twofold.fuse.fuse import fuse as run_fuse
    from twofold.fuse.settings import resolve

    given |= {"backbones": names_in(backbones) if backbones else None, "views": names_in(views) if views else None}
    settings = resolve(preset=preset, config=config, given=given)
    return run_fuse(stores, settings, out=out, say=lambda text: print(text, file=sys.stderr))


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `fuse` made.")],
    store: StorePath,
    split: Annotated[str, typer.Option(help="train, val, test or all; by default test if there is any.")] = "",
    table: Annotated[str, typer.Option(help="Runs side by side: plain, or paper, as its Tables 1 and 2.")] = "",
    as_json: Json = False,
) -> Report:
    """Score trained heads on another cache, each alone or side by side."""
    from twofold.fuse.evaluate import evaluate as run_evaluate
    from twofold.fuse.evaluate import evaluate_all

    whisper = partial(print, file=sys.stderr)
    if table or len(runs) > 1:
        return evaluate_all(runs, store, split=split, table=table or "plain", say=whisper)
    return run_evaluate(runs[0], store, split=split, say=whisper)


@app.command()
def sweep(
    stores: Stores,
    config: Annotated[Path, typer.Option(help="TOML: backbones, heads, seeds, [settings], [grid].")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same one continues it.")] = Path("runs/sweep"),
    jobs: Annotated[int, typer.Option(min=0, help="Processes at once; 0: one a core.")] = 0,
    as_json: Json = False,
) -> Report:
    """Many heads: subsets of backbones x heads x settings, one leaderboard by validation."""
    from twofold.fuse.sweep import sweep as run_sweep

    return run_sweep(stores, config, out=out, jobs=jobs, say=lambda text: print(text, file=sys.stderr))


def bench_fuse(
    sizes: Annotated[str, typer.Option(help="Comma-separated: rafce (3,162 x 2,816), large (100,000 x 4,096).")]
    = "rafce",
    as_json: Json = False,
) -> Report:
    """Training from the cache against its bare matrix products, a DataLoader loop and scikit-learn."""
    from twofold.cache.names import names_in
    from twofold.fuse.bench.bench import bench_fuse as run_bench

    return run_bench(sizes=tuple(names_in(sizes)), say=lambda text: print(text, file=sys.stderr))


