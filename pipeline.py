"""Twofold's command line: mounts the packages' verbs, holds those that cross the stages, prints what they return."""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
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
from twofold import Report

if TYPE_CHECKING:
    from twofold.data.footage.in_memory import Footage, Treatment
    from twofold.data.footage.settings import Sampling
    from twofold.data.footage.sources import Source
    from twofold.fuse.run import Run
    from twofold.fuse.tables.predictions import PredictOptions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True,
                  help="Compound facial expressions from cached features: extract once, fuse in seconds.")
bench_app = typer.Typer(no_args_is_help=True, help="How near this machine is to its limit, and what is in the way.")
app.add_typer(data_cli.manifest_app, name="manifest")
app.command()(data_cli.crop)
app.add_typer(extract_cli.app)
app.add_typer(fuse_cli.app)
app.add_typer(cache_cli.app, name="cache")
app.add_typer(extract_cli.weights_app, name="weights")
app.add_typer(bench_app, name="bench")
bench_app.command("extract")(extract_cli.bench_extract)
bench_app.command("cache")(cache_cli.bench_cache)
bench_app.command("fuse")(fuse_cli.bench_fuse)

DEMO_FACES_PER_CLASS = 20
MOST_LETTERS = 2_000  #: of a line that is printed
#: control characters (C0 but tab and line end, DEL, C1), marks that change the direction of writing, lone surrogates
UNPRINTABLE = re.compile("[\0-\b\v-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `fuse` made.")],
    inputs: Annotated[list[Path], typer.Argument(
        metavar="INPUT...", help="Photographs, faces, videos, folders of them; or one manifest, or one store.")],
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
    cropped: Annotated[bool, typer.Option("--cropped", help="All pictures are faces: take them as they are.")] = False,
    detect: Annotated[bool, typer.Option("--detect", help="No picture is a face yet: find and crop them.")] = False,
    detector: Annotated[Path | None, typer.Option(help="YuNet's ONNX file, where not in the weights folder.")] = None,
    fps: Annotated[float, typer.Option(help="Videos: look at that many frames a second; 0 is all.")] = 0.0,
    every: Annotated[int, typer.Option(help="Videos: look at each N-th frame.")] = 1,
    timeline: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Videos: draw the scores over time.")] = None,
    annotate: Annotated[Path | None, typer.Option(metavar="OUT.mp4", help="One video: draw the answers into it.")]
    = None,
    device: extract_cli.Device = "auto",
    as_json: data_cli.Json = False,
) -> Report | int:
    """Classify faces with a trained head: a row a face, or the file that a challenge wants."""
    import tempfile

    from twofold.data.errors import InputError
    from twofold.fuse.predict import check_options
    from twofold.fuse.predict import predict as run_predict
    from twofold.fuse.run import read_run
    from twofold.fuse.tables.predictions import PredictOptions

    trained = read_run(run)
    options = PredictOptions(top=top, threshold=threshold, smooth=smooth, basic=basic, template=submission,
                             fill=fill_videos)
    check_options(options, trained, out)
    if len(inputs) == 1 and (inputs[0].suffix.lower() == ".csv" or any(inputs[0].glob("*.h5"))):
        if cropped or detect or detector or fps or every > 1 or timeline or annotate:
            raise InputError(f"{inputs[0]} holds faces: --cropped, --detect, --detector, --fps, --every, --timeline "
                             "and --annotate go with photographs and videos")
        return predict_faces(trained, inputs[0], options, out, root=root, store=store, weights=weights, device=device)
    if root:
        raise InputError("--root goes with a manifest; images and folders are where they are")
    if cropped and detect:
        raise InputError("--cropped and --detect contradict each other: give one of them, or leave it to the pictures")
    from twofold.data.footage.drawing import Drawing
    from twofold.data.footage.settings import Sampling
    from twofold.data.footage.sources import find_sources
    from twofold.extract.in_memory import extract_in_memory

    sources, drawing = find_sources(inputs), Drawing(timeline=timeline, annotate=annotate)
    drawing.check(sources, out, submission=submission is not None)
    footage = open_footage(sources, trained.record.get("crops", []), detector=detector,
                           sampling=Sampling(fps=fps, every=every),
                           treatment="cropped" if cropped else "detect" if detect else "auto")
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        place = store or Path(folder, "store")
        stopped_by = extract_in_memory(
            [recipe for _, _, recipe in trained.streams], footage.chunks(), footage.table, store=place,
            weights=weights or [], device=device, dims=trained.head.spec.dims)
        if stopped_by:
            return 128 + stopped_by
        say(footage.account())
        predictions = run_predict(trained, place, options, out=out, faults=footage.faults, say=say)
    drawing.draw(sources, out, trained.taxonomy.classes)
    return predictions


def predict_faces(trained: Run, faces: Path, options: PredictOptions, out: Path, *, root: list[str] | None,
                  store: Path | None, weights: list[str] | None, device: str) -> Report | int:
    """Predict the faces of a store, or those of a manifest, extracted first with the recipes of the run."""
    import tempfile

    from twofold.data.errors import InputError
    from twofold.data.images.named_inputs import in_store
    from twofold.data.manifest import read_manifest, write_manifest
    from twofold.extract.reproduce import reproduce
    from twofold.fuse.predict import predict as run_predict

    if faces.is_dir():
        if root or store or weights:
            raise InputError(f"{faces} is a store already: leave out --root, --store and --weights")
        return run_predict(trained, faces, options, out=out, say=say)
    if not root:
        raise InputError(f"{faces} is a manifest: say with --root which folder its keys are relative to")
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        place, listed = store or Path(folder, "store"), Path(folder, "faces.csv")
        write_manifest(in_store(read_manifest(faces), place / "manifest.csv"), listed)
        extraction = reproduce([recipe for _, _, recipe in trained.streams], manifest=listed, roots=root, store=place,
                               weights=weights or [], device=device, reused=store is not None,
                               dims=trained.head.spec.dims)
        say(extraction.text())
        if extraction.exit_code > 1:  # it was stopped
            return extraction.exit_code
        return run_predict(trained, place, options, out=out, say=say)


def open_footage(sources: Sequence[Source], lines: Sequence[str], *, detector: Path | None, sampling: Sampling,
                 treatment: Treatment) -> Footage:
    """Photographs and videos to be cropped as a run's faces were, with the detector that is to be had."""
    from twofold.data.errors import InputError
    from twofold.data.footage.detector_file import find_detector
    from twofold.data.footage.in_memory import footage_of

    path = None
    if treatment != "cropped" or any(source.video for source in sources):
        try:
            path = find_detector(detector)
        except InputError as error:
            if detector or treatment == "detect" or any(source.video for source in sources):
                raise
            say(f"warning: all pictures are taken for faces as they are; the answer for an uncropped one is worth "
                f"nothing ({error})")
    footage, notes = footage_of(sources, lines, detector=path, sampling=sampling, treatment=treatment)
    for note in notes:
        say(f"warning: {note}")
    return footage


def say(text: str) -> None:
    """What a verb notes on its way."""
    print(text, file=sys.stderr)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `fuse` made.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new folder.")],
    as_json: data_cli.Json = False,
) -> Report:
    """A run for others: its head as ONNX, and a model card with figures, encoders, licences and limits."""
    from twofold.extract.networks.presets import PRESETS
    from twofold.fuse.export.export import export as run_export

    return run_export(run, out, licences={preset.name: preset.licence for preset in PRESETS})


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    device: extract_cli.Device = "auto",
) -> int:
    """The whole pipeline on drawn faces, with every preset's real architecture, untrained: no data, no network."""
    from twofold.data.drawn.dataset import draw_dataset
    from twofold.data.labels import taxonomy
    from twofold.data.manifest import write_manifest
    from twofold.extract.run import Request
    from twofold.extract.run import extract as run_extract
    from twofold.extract.streams import parse_streams
    from twofold.fuse.fuse import fuse as run_fuse
    from twofold.fuse.settings import resolve

    classes = taxonomy("cexpr7")
    manifest = draw_dataset(out / "faces", taxonomy=classes, per_class=DEMO_FACES_PER_CLASS, size=112, seed=0)
    write_manifest(manifest, out / "faces.csv")
    print(f"{len(manifest)} drawn faces of {len(classes.classes)} compound expressions in {out / 'faces'}")
    names = extract_cli.PRESETS.split(",")
    extracted = run_extract(Request(
        manifest=out / "faces.csv", roots=[str(out / "faces")], store=out / "store", device=device,
        streams=parse_streams(names, weights=[f"{name}=random:0" for name in names])))
    print(extracted.text())
    settings = resolve(changes={"seeds": 2, "device": device})
    print(run_fuse([out / "store"], settings, out=out / "run").text())
    return extracted.exit_code


def printable(text: str) -> str:
    """Text that may come from a stranger's file, as a terminal can bear it: no control or direction-changing
    characters but tabs and line ends, and no endless lines."""
    text = UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return "\n".join(line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]}... ({len(line):,} letters)"
                     for line in text.split("\n"))


class PrintableFormatter(logging.Formatter):
    """What is logged on the way (weights left aside, a download), as a terminal can bear it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def explain(error: Exception) -> tuple[str, int] | None:
    """One sentence and the exit code for an error that a person can mend; None for a defect of ours."""
    from twofold.cache.errors import CacheError, TransferError
    from twofold.data.errors import InputError

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
    """Run the command line (of this process, unless `arguments` are given); returns the exit code.

    A verb returns its report, which is printed here: as text, or as JSON where `--json` stands among the words.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        report = app(words, standalone_mode=False)
        if report is None or isinstance(report, int):  # --help
            return report or 0
        print(json.dumps(report.record(), indent=2) if "--json" in words else printable(report.text()), flush=True)
        return getattr(report, "exit_code", 0)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        explanation = explain(error)
        if explanation is None:
            raise
        print(printable(explanation[0]), file=sys.stderr)
        return explanation[1]


def command() -> None:
    """The console command `twofold`: what our packages note on the way goes to stderr; libraries only warn."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("twofold").setLevel(logging.INFO)
    sys.exit(main())


if __name__ == "__main__":
    command()
