"""The verbs of stage two: parse, call one function, return its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from twofold import Report

app = typer.Typer()

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="A store: a folder of feature files.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the same verb wrote there before; "
                                                             "other files stay.")]
Tensorboard = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for TensorBoard, too.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `fuse` wrote, or starter.")]
RunPaths = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `fuse` wrote, or starter.")]
Stores = Annotated[list[Path], typer.Argument(metavar="STORE...", help="Stores; the first one's faces are scored.")]


def with_settings(verb: Callable[..., Report]) -> Callable[..., Report]:
    """The verb with an option for each field of `Settings`; they reach it as the dict `changes`."""
    from twofold.data.utils.options import with_options
    from twofold.fuse.core.settings import Settings

    return with_options(Settings)(verb)


@app.command()
@with_settings
def fuse(
    stores: Stores,
    changes: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder for the run; none: only the table.")] = None,
    preset: Annotated[str, typer.Option(help="default; paper: its Fig. 1; authors: what they "
                                         "ran. Three seeds averaged; --seeds 1 is one model, as theirs.")] = "default",
    config: Annotated[Path | None, typer.Option(help="Settings from a TOML, or from a run's run.json.")] = None,
    overwrite: Overwrite = False,
    tensorboard: Tensorboard = None,
) -> Report:
    """Train a head on cached features: each backbone alone, then their fusion, in one table."""
    from twofold.fuse.core.settings import resolve
    from twofold.fuse.fuse import fuse as run_fuse

    settings = resolve(preset=preset, config=config, changes=changes)
    return run_fuse(stores, settings, out=out, overwrite=overwrite, tensorboard=tensorboard)


@app.command()
def evaluate(
    runs: RunPaths,
    store: StorePath,
    split: Annotated[str, typer.Option(help="train, val, test or all; by default test if there is any, and all for "
                                            "cross-validated runs.")] = "",
    table: Annotated[str, typer.Option(help="Runs side by side: plain, or paper, as its Tables 1 and 2.")] = "",
    allow_seen: Annotated[bool, typer.Option(
        "--allow-seen", help="Score faces, too, that a run has learned from or was chosen by; the figures say so.")]
    = False,
    out: Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT.csv", help="The predictions that are "
                                             "scored, too: .csv or .parquet.")] = None,
    overwrite: Overwrite = False,
) -> Report:
    """Score trained heads on another cache, each alone or side by side."""
    from twofold.fuse.evaluate import evaluate as run_evaluate
    from twofold.fuse.evaluate import evaluate_all, evaluated_output, write_evaluated

    output = evaluated_output(out, overwrite=overwrite) if out else None
    report = evaluate_all(runs, store, split=split, table=table or "plain", allow_seen=allow_seen) if (
        table or len(runs) > 1) else run_evaluate(runs[0], store, split=split, allow_seen=allow_seen)
    if output:
        write_evaluated(getattr(report, "each", [report]), output)
    return report


@app.command()
def sweep(
    stores: Stores,
    config: Annotated[Path, typer.Option(help="TOML: backbones, heads, seeds, [settings], [grid].")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same one continues it.")] = Path("runs/sweep"),
    jobs: Annotated[int, typer.Option(min=0, help="Processes at once; 0: one a core.")] = 0,
    overwrite: Overwrite = False,
    tensorboard: Tensorboard = None,
) -> Report:
    """Many heads: subsets of backbones x heads x settings, one leaderboard by validation."""
    from twofold.fuse.sweep import sweep as run_sweep

    return run_sweep(stores, config, out=out, jobs=jobs, overwrite=overwrite, tensorboard=tensorboard)


def publishing_verbs(*, licences_of: Callable[[Iterable[str]], dict[str, str]], export_encoders: Callable[..., Any]
                    ) -> typer.Typer:
    """The verbs `report` and `export`. licences_of, export_encoders: of stage one (`extract.cli`), which stage two
    does not import."""
    shown = typer.Typer()

    @shown.command()
    def report(
        runs: RunPaths,
        out: Annotated[Path, typer.Option("-o", "--output", metavar="REPORT.html", help="The page to write.")]
        = Path("report.html"),
        figures: Annotated[Path | None, typer.Option(metavar="DIR", help="The drawings as SVG, PDF and PNG.")]
        = None,
        root: Annotated[list[str] | None, typer.Option(metavar="DIR", help="Show the samples that are listed: the "
                                                       "folder of their images, or NAME=DIR for each dataset.")] = None,
        store: Annotated[Path | None, typer.Option(metavar="STORE", help="The store that the runs were scored on.")]
        = None,
        follow_links: Annotated[bool, typer.Option("--follow-links", help="Read images that are links out of their "
                                                   "root.")] = False,
        overwrite: Overwrite = False,
    ) -> Report:
        """Tables and pictures of runs on one page: figures, intervals, confusions, calibration, learning, errors."""
        from twofold.data.images.sources import parse_roots
        from twofold.fuse.report.report import report as run_report

        return run_report(runs, out=out, figures=figures, root=parse_roots(root) if root else None, store=store,
                          licences_of=licences_of, follow_links=follow_links, overwrite=overwrite)

    @shown.command()
    def export(
        run: RunPath,
        out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new folder.")],
        face: Annotated[bool, typer.Option("--face", help="Encoders and head as one ONNX, too, from resized faces.")]
        = False,
        weights: Annotated[list[str] | None, typer.Option(help="NAME=PATH, where not in the weights folder.")] = None,
        licence: Annotated[list[str] | None, typer.Option(
            metavar="NAME=LICENCE", help="Of an encoder's weights, where nobody states it.")] = None,
        overwrite: Overwrite = False,
    ) -> Report:
        """A run for others: its head as ONNX, and a model card with figures, encoders, licences and limits."""
        from twofold.fuse.export.export import export as run_export
        from twofold.fuse.runs.read import read_run

        trained = read_run(run)
        recipes = [recipe for _, _, recipe in trained.streams]
        encoders = export_encoders(recipes, weights=weights or [], stated=licence or [], beside=trained.path
                                   ) if face else None
        return run_export(trained, out, licences=licences_of(recipe.backbone for recipe in recipes), encoders=encoders,
                          overwrite=overwrite)

    return shown


def bench_fuse(
    sizes: Annotated[str, typer.Option(help="Comma-separated: rafce (3,162 x 2,816), large (100,000 x 4,096).")]
    = "rafce",
) -> Report:
    """An epoch of training from the cache beside the matrix products that it is made of."""
    from twofold.data.utils.options import split_names
    from twofold.fuse.bench import bench_fuse as run_bench

    return run_bench(split_names(sizes))
