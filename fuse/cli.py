"""The verbs of stage two: parse, call one function, return its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from twofold import Report

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of text.")]
StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="A store: a folder of feature files.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the same verb wrote there before; "
                                                             "other files stay.")]
Tensorboard = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for TensorBoard, too.")]
Stores = Annotated[list[Path], typer.Argument(metavar="STORE...", help="Stores; the first one's faces are scored.")]



def with_settings(verb: Callable[..., Report]) -> Callable[..., Report]:
    """The verb with an option for each of `Settings`' fields; they reach it as the dict `changes`."""
    from twofold.cache.names import names_in
    from twofold.data.host.options import with_options
    from twofold.fuse.settings import Settings

    return with_options(Settings, declare=typer.Option, names_in=names_in)(verb)


@app.command()
@with_settings
def fuse(
    stores: Stores,
    changes: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder for the run; none: only the table.")] = None,
    preset: Annotated[str, typer.Option(help="default; paper: its Fig. 1; authors: what they ran.")] = "default",
    config: Annotated[Path | None, typer.Option(help="Settings from a TOML, or from a run's run.json.")] = None,
    overwrite: Overwrite = False,
    tensorboard: Tensorboard = None,
    as_json: Json = False,
) -> Report:
    """Train a head on cached features: each backbone alone, then their fusion, in one table."""
    from twofold.fuse.fuse import fuse as run_fuse
    from twofold.fuse.settings import resolve

    settings = resolve(preset=preset, config=config, changes=changes)
    return run_fuse(stores, settings, out=out, overwrite=overwrite, tensorboard=tensorboard)


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `fuse` made.")],
    store: StorePath,
    split: Annotated[str, typer.Option(help="train, val, test or all; by default test if there is any, and all for "
                                            "cross-validated runs.")] = "",
    table: Annotated[str, typer.Option(help="Runs side by side: plain, or paper, as its Tables 1 and 2.")] = "",
    allow_seen: Annotated[bool, typer.Option(
        "--allow-seen", help="Score faces, too, that a run has learned from or was chosen by; the figures say so.")]
    = False,
    as_json: Json = False,
) -> Report:
    """Score trained heads on another cache, each alone or side by side."""
    from twofold.fuse.evaluate import evaluate as run_evaluate
    from twofold.fuse.evaluate import evaluate_all

    if table or len(runs) > 1:
        return evaluate_all(runs, store, split=split, table=table or "plain", allow_seen=allow_seen)
    return run_evaluate(runs[0], store, split=split, allow_seen=allow_seen)


@app.command()
def sweep(
    stores: Stores,
    config: Annotated[Path, typer.Option(help="TOML: backbones, heads, seeds, [settings], [grid].")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same one continues it.")] = Path("runs/sweep"),
    jobs: Annotated[int, typer.Option(min=0, help="Processes at once; 0: one a core.")] = 0,
    overwrite: Overwrite = False,
    tensorboard: Tensorboard = None,
    as_json: Json = False,
) -> Report:
    """Many heads: subsets of backbones x heads x settings, one leaderboard by validation."""
    from twofold.fuse.sweep.sweep import sweep as run_sweep

    return run_sweep(stores, config, out=out, jobs=jobs, overwrite=overwrite, tensorboard=tensorboard)


def bench_fuse(
    sizes: Annotated[str, typer.Option(help="Comma-separated: rafce (3,162 x 2,816), large (100,000 x 4,096).")]
    = "rafce",
    as_json: Json = False,
) -> Report:
    """Training from the cache against its bare matrix products, a DataLoader loop and scikit-learn."""
    from twofold.cache.names import names_in
    from twofold.fuse.bench.bench import bench_fuse as run_bench

    return run_bench(sizes=tuple(names_in(sizes)))
