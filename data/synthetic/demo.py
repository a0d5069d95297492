"""The demonstration: drawn people, and the commands that teach an encoder their basic expressions and find compounds.

The commands are those that anybody types; they are shown as they run, so that they can be taken for one's own faces.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest, write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError

BASICS_PER_CLASS = 80  #: a face of each of 80 people, of whom 48 teach
COMPOUNDS_PER_CLASS = 50  #: of the first 50 of them, of whom 10 are kept for the test: fewer allow no interval
SIZE = 112
ABOUT = "about.txt"  #: tells a folder of the demonstration from one with somebody's faces
LEARNER = "timm:test_resnet"  #: small enough to learn to see from nothing within a minute


@dataclass(frozen=True)
class Step:
    """A command and what it is for. makes: a file that it need not be run again for."""

    about: str
    words: tuple[str, ...]
    makes: Path | None = None


def run_demo(out: Path, *, untrained: Sequence[str], device: str, verb: Callable[[list[str]], int]) -> int:
    """Draw the faces and run each command with `verb`, until one fails; returns the exit code.

    Raises InputError if `out` has something else in it.
    """
    claim(out)
    print(f"{len(draw_people(out))} faces drawn in {out / 'faces'}: basic and compound expressions, each person in one "
          "split only; chance is 14 % for seven classes", flush=True)
    for step in steps(out, untrained=untrained, device=device):
        there = step.makes is not None and step.makes.exists()
        print(f"\n# {step.about}{' (done before)' if there else ''}\n$ twofold {shlex.join(step.words)}", flush=True)
        code = 0 if there else verb(list(step.words))
        if code:
            return code
    return 0


def claim(out: Path) -> None:
    """Make the folder, or find it empty or of an earlier demonstration. Raises InputError if it is neither."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder: name another (--out)")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / ABOUT).exists():
        raise InputError(f"{out} has other things in it, which the demo could write over: name another folder (--out)")
    (out / ABOUT).write_text("What `twofold demo` makes; it may write over everything here.\n", encoding="utf-8")


def draw_people(out: Path) -> Manifest:
    """Draw the faces below `out / "faces"` and list them: all in faces.csv, the compounds alone in compounds.csv."""
    basics, compounds = (
        draw_dataset(out / "faces", taxonomy=builtin_taxonomy(name), per_class=count, size=SIZE, seed=0, per_identity=1)
        for name, count in (("basic7", BASICS_PER_CLASS), ("cexpr7", COMPOUNDS_PER_CLASS)))
    both = build_manifest(pd.concat([basics.table, compounds.table], ignore_index=True), source=str(out))
    write_manifest(both, out / "faces.csv")
    write_manifest(compounds, out / "compounds.csv")
    return both


def steps(out: Path, *, untrained: Sequence[str], device: str) -> list[Step]:
    """The commands of the demonstration. untrained: the backbones that are shown with random weights."""
    faces, weights, store = str(out / "faces"), out / "encoder.safetensors", str(out / "store")
    drawn = [word for name in untrained for word in ("--weights", f"{name}=random:0")]
    return [
        Step("a small encoder learns the basic expressions, from nothing", (
            "finetune", str(out / "faces.csv"), "--root", faces, "--backbone", LEARNER, "--weights", "random:0",
            "--target", "basic", "--size", "64", "--epochs", "30", "--batch-size", "32", "--lr", "0.003", "--shift",
            "0.05", "--crop", "0.9", "--device", device, "--out", str(weights)), makes=weights),
        Step("it and the paper's architectures, which nobody has taught anything here, embed the compound faces", (
            "extract", str(out / "compounds.csv"), "--root", faces, "--store", store, "--backbones",
            ",".join([LEARNER, *untrained]), "--weights", f"{LEARNER}={weights}", *drawn, "--device", device)),
        Step("compound expressions from basic ones alone: no compound face has taught anything", (
            "fuse", store, "--backbones", LEARNER, "--head", "zeroshot", "--device", device)),
        Step("a head learns compounds from all backbones together; it is scored on people whom nothing has seen", (
            "fuse", store, "--device", device, "--out", str(out / "run"))),
        Step(f"what there is to see of it, on a page for any browser: {out / 'report.html'}", (
            "report", str(out / "run"), "--store", store, "--root", faces, "-o", str(out / "report.html"),
            "--overwrite")),
    ]
