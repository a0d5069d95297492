"""Twofold's command line: mounts the packages' verbs, holds those that cross the stages, prints what they return."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if "twofold" not in sys.modules:  # `python pipeline.py` in a plain clone: this folder is the package
    root = Path(__file__).resolve().with_name("__init__.py")
    spec = importlib.util.spec_from_file_location("twofold", root, submodule_search_locations=[str(root.parent)])
    assert spec and spec.loader
    sys.modules["twofold"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["twofold"])

import typer

import twofold.cache.cli as cache_cli
import twofold.data.cli as data_cli
import twofold.extract.cli as extract_cli
import twofold.fuse.cli as fuse_cli
from twofold import Report, encoders_of
from twofold.data.utils.errors import InputError
from twofold.data.utils.terminal import add_json_option, run_verb

if TYPE_CHECKING:
    from twofold.extract.streams import MatchingEncoders
    from twofold.fuse.runs.read import Run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
bench_app = typer.Typer(no_args_is_help=True, help="How near this machine is to its limit, and what is in the way.")
app.add_typer(data_cli.manifest_app, name="manifest")
app.command()(data_cli.crop_verb(extract_cli.open_identity))
app.add_typer(extract_cli.app)
app.add_typer(fuse_cli.app)
app.add_typer(fuse_cli.publishing_verbs(licences_of=extract_cli.licences_of,
                                            export_encoders=extract_cli.export_encoders))
app.add_typer(cache_cli.app, name="cache")
app.add_typer(extract_cli.weights_app, name="weights")
app.add_typer(bench_app, name="bench")
bench_app.command("extract")(extract_cli.bench_extract)
bench_app.command("cache")(cache_cli.bench_cache)
bench_app.command("fuse")(fuse_cli.bench_fuse)


def print_version(wanted: bool) -> None:
    """Print the version and end, if that is wanted."""
    if wanted:
        import tomllib
        from importlib.metadata import version

        clone = Path(__file__).with_name("pyproject.toml")
        typer.echo("twofold " + (tomllib.loads(clone.read_text(encoding="utf-8"))["project"]["version"]
                                 if clone.is_file() else version("twofold")))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True,
                                          help="Print the version.")] = False,
) -> None:
    """Compound facial expressions from cached features: extract once, fuse in seconds."""


Weights = Annotated[list[str] | None, typer.Option(help="NAME=PATH, where not in the weights folder.")]
Second = Annotated[float | None, typer.Option(help="`none` instead of a compound of which one emotion has less of the "
                                                    "basic probabilities (unless given 0.08; 0: never).")]
Cropped = Annotated[bool, typer.Option("--cropped", help="All pictures are faces: take them as they are.")]


@app.command()
def predict(
    words: Annotated[list[Path], typer.Argument(
        metavar="[RUN] INPUT...", help="A folder that `fuse` wrote (none: starter); then photographs, faces, videos, "
                                       "folders of them, or one manifest, or one store.")],
    zero_shot: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="No RUN: compounds from the classifiers of "
                                           "basic expressions that these backbones bring, averaged.")] = "",
    classes_of: Annotated[list[str] | None, typer.Option(metavar="NAME=ORDER", help="Their order, as of `extract`.")]
    = None,
    out: Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT.csv",
                                             help="The table to write; none: a summary on the terminal.")] = None,
    root: Annotated[list[str] | None, typer.Option(help="Of a manifest: as `extract` wants it.")] = None,
    store: Annotated[Path | None, typer.Option(help="Keep the features here, and use those that are here.")] = None,
    weights: Weights = None,
    top: Annotated[int, typer.Option(help="Name that many classes, the likeliest first.")] = 0,
    threshold: Annotated[float, typer.Option(help="Less likely calls are 'uncertain'.")] = 0.0,
    smooth: Annotated[str, typer.Option(help="Videos: box:N, gauss:S or none (fills gaps only).")] = "",
    second: Second = None,
    submission: Annotated[Path | None, typer.Option(metavar="TEMPLATE", help="Write what ABAW or BLEMORE wants of "
                                                                             "their template.")] = None,
    fill_videos: Annotated[bool, typer.Option("--fill-videos", help="Answer videos without any face, too.")] = False,
    hz: Annotated[float | None, typer.Option(help="Videos: that many rows a second, means of their frames; gaps stay."
                                             )] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="The features, too: columns e0, e1, ...")] = False,
    events: Annotated[Path | None, typer.Option(metavar="OUT.csv", help="Videos: onset, apex and offset of each "
                                                "expression; .vtt and .eaf (ELAN) too, also with -o.")] = None,
    cropped: Cropped = False,
    detect: Annotated[bool, typer.Option("--detect", help="No picture is a face yet: find and crop them.")] = False,
    follow_links: data_cli.FollowLinks = False,
    detector: data_cli.Detector = None,
    fps: Annotated[float, typer.Option(help="Videos: look at that many frames a second; 0 is all.")] = 0.0,
    every: Annotated[int, typer.Option(help="Videos: look at each N-th frame.")] = 1,
    detect_every: Annotated[int, typer.Option(min=0, max=100, help="Videos: as of `crop`; 0: as the run's faces.")] = 0,
    identity: Annotated[str, typer.Option(metavar="NAME", help="Videos: tell people apart, as of `crop`.")] = "",
    timeline: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Videos: draw the scores over time.")] = None,
    annotate: Annotated[Path | None, typer.Option(metavar="OUT.mp4", help="One video: draw answers into it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older table and drawings.")] = False,
    device: extract_cli.Device = "auto",
) -> Report | int:
    """Classify faces with a trained head: a row a face, or the file that a challenge wants.

    Formats and limits of photographs and videos are those of `crop`: other files of a folder are left out and counted,
    what cannot be read is a row with its reason, and exit code 1.
    """
    import tempfile

    from twofold.data.utils.machine import without_collector

    with without_collector():
        from twofold.data.faces.annotate import Drawing
        from twofold.extract.inputs import FootageOptions, extract_inputs
        from twofold.fuse.predict import PredictOptions, check_options
        from twofold.fuse.predict import predict as run_predict
        from twofold.fuse.runs.read import open_run, split_run
        from twofold.fuse.series import SUBTITLES

    run, inputs = split_run(words)
    if zero_shot:
        trained, encoders = _zero_shot(run, zero_shot, weights or [], classes_of or [], device)
    elif classes_of:
        raise InputError("--classes-of goes with --zero-shot: a RUN has its own classes")
    else:
        trained = open_run(run)
        encoders = encoders_of(trained, weights or [], device)
    if out and out.suffix.lower() in SUBTITLES:
        if events:
            raise InputError(f"-o {out} and --events {events} are both files of events: give one of them")
        events, out = out, None
    options = PredictOptions(top=top, threshold=threshold, smooth=smooth, second=second, template=submission,
                             fill=fill_videos, rate=hz, embeddings=embeddings, events=events, overwrite=overwrite)
    check_options(options, trained, out, inputs=inputs)
    footage = FootageOptions(cropped=cropped, detect=detect, detector=detector, fps=fps, every=every,
                             follow_links=follow_links, detect_every=detect_every, identity=identity)
    drawing = Drawing(timeline=timeline, annotate=annotate, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        faces = extract_inputs(
            inputs, encoders, crops=None if zero_shot else trained.record.crops, footage=footage, drawing=drawing,
            out=out, root=root or [], store=store, temporary=Path(folder, "store"), submission=submission is not None)
        if faces.stopped_by:
            typer.echo(f"stopped by {signal.Signals(faces.stopped_by).name}: nothing was written", err=True)
            return 128 + faces.stopped_by
        predictions = run_predict(trained, faces.store, options, out=out, inputs=inputs, faults=faces.faults)
    if out:
        drawing.draw(faces.sources, out, trained.task.outputs)
    return predictions


def _zero_shot(run: Path | None, names: str, weights: list[str], classes_of: list[str], device: str
               ) -> tuple[Run, MatchingEncoders]:
    """A run on the classifiers of these backbones, and their encoders. Raises InputError where they cannot make it."""
    from twofold.data.labels import builtin_taxonomy
    from twofold.data.utils.options import split_names
    from twofold.extract.streams import MatchingEncoders, parse_streams
    from twofold.fuse.runs.zeroshot import zero_shot_run

    if run:
        raise InputError(f"--zero-shot needs no run: leave out {run}")
    streams = parse_streams(split_names(names), weights=weights, classes_of=classes_of)
    encoders = MatchingEncoders.of_streams(streams, device=device)
    loaded = [encoders.find(number) for number in range(len(streams))]
    return zero_shot_run([(source.backbone, recipe, encoder.classifier, encoder.unnamed_classes)
                          for recipe, (source, encoder) in zip(encoders.recipes, loaded, strict=True)],
                         builtin_taxonomy("cexpr7")), encoders


@app.command()
def serve(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A folder that `fuse` wrote; none: starter.")]
    = None,
    host: Annotated[str, typer.Option(help="Listen there; beyond this machine, a token is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 7860,
    examples: Annotated[Path | None, typer.Option(metavar="DIR", help="Offer these pictures for a click.")] = None,
    threshold: Annotated[float, typer.Option(help="Less likely calls are 'uncertain'; the page can change it.")] = 0.5,
    second: Second = None,
    cropped: Cropped = False,
    detector: data_cli.Detector = None,
    weights: Weights = None,
    device: extract_cli.Device = "auto",
) -> Report:
    """A live page for one run: drop a picture, use the camera or a video, see what each face shows."""
    from twofold.fuse.runs.read import open_run
    from twofold.fuse.serve.serve import serve as run_serve

    trained = open_run(run)
    return run_serve(trained, host=host, port=port, examples=examples, threshold=threshold, second=second,
                     cropped=cropped, detector=detector,
                     load=lambda: encoders_of(trained, weights or [], device.split(",")[0]).load_all().embed)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    device: extract_cli.Device = "auto",
) -> int:
    """The whole pipeline on drawn faces, an encoder's training included: no data, no network, two or three minutes."""
    from twofold.data.synthetic.demo import run_demo

    return run_demo(out, untrained=extract_cli.PRESETS.split(","), device=device, verb=main)


add_json_option(app)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (of this process, unless `arguments` are given); returns the exit code."""
    return run_verb(app, sys.argv[1:] if arguments is None else arguments)


def command() -> None:
    """The console command `twofold`."""
    code = main()
    stopped = any(thread.name.startswith("decode") for thread in threading.enumerate())  # within an image
    if stopped or not {"twofold.fuse.serve.serve", "twofold.fuse.predict"}.isdisjoint(sys.modules):
        # their interpreter's end can take many seconds, and with torch takes a tenth of what a photograph takes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
