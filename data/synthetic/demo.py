"""The verb `demo`: draw people, then run the commands that fine-tune an encoder and train a head on them.

Each command is printed before it runs, so that it can be repeated with other faces.
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

BASICS_PER_CLASS = 80  #: one face of each of 80 people, 48 of them in the training split
COMPOUNDS_PER_CLASS = 50  #: of the first 50 people, 10 of them in the test split: fewer allow no interval
SIZE = 112
ABOUT = "about.txt"  #: marks a folder of the demonstration
LEARNER = "timm:test_resnet"  #: small enough to train from random weights within a minute


@dataclass(frozen=True)
class Step:
    """A command and what it is for. makes: where this file exists, the command is not run again."""

    about: str
    words: tuple[str, ...]
    makes: Path | None = None


def run_demo(out: Path, *, untrained: Sequence[str], device: str, verb: Callable[[list[str]], int]) -> int:
    """Draw the faces and run each command with `verb`, until one fails; returns the exit code.

    Raises InputError if `out` has something else in it.
    """
    claim_folder(out)
    print(f"{len(draw_people(out))} faces drawn in {out / 'faces'}: basic and compound expressions, each person in one "
          "split only; chance is 14 % for seven classes", flush=True)
    for step in steps(out, untrained=untrained, device=device):
        there = step.makes is not None and step.makes.exists()
        print(f"\n# {step.about}{' (done before)' if there else ''}\n$ twofold {shlex.join(step.words)}", flush=True)
        code = 0 if there else verb(list(step.words))
        if code:
            return code
    return 0


def claim_folder(out: Path) -> None:
    """Create the folder. Raises InputError if it has anything in it that is not of an earlier demonstration."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder: name another (--out)")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / ABOUT).exists():
        raise InputError(f"{out} has other things in it, which the demo could overwrite: name another folder (--out)")
    (out / ABOUT).write_text("Written by `twofold demo`, which may overwrite everything here.\n", encoding="utf-8")


def draw_people(out: Path) -> Manifest:
    """Draw the faces below `out / "faces"`; faces.csv lists all of them, compounds.csv the compounds."""
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
        Step("a small encoder learns the basic expressions, from random weights", (
            "finetune", str(out / "faces.csv"), "--root", faces, "--backbone", LEARNER, "--weights", "random:0",
            "--target", "basic", "--size", "64", "--epochs", "30", "--batch-size", "32", "--lr", "0.003", "--shift",
            "0.05", "--crop", "0.9", "--device", device, "--out", str(weights)), makes=weights),
        Step("it and the paper's architectures, untrained here, embed the compound faces", (
            "extract", str(out / "compounds.csv"), "--root", faces, "--store", store, "--backbones",
            ",".join([LEARNER, *untrained]), "--weights", f"{LEARNER}={weights}", *drawn, "--device", device)),
        Step("compound expressions from basic ones: no compound face is used for training", (
            "fuse", store, "--backbones", LEARNER, "--head", "zeroshot", "--device", device)),
        Step("a head is trained on compounds with all backbones; it is scored on people in no training set", (
            "fuse", store, "--device", device, "--out", str(out / "run"))),
        Step(f"a page of figures: {out / 'report.html'}", (
            "report", str(out / "run"), "--store", store, "--root", faces, "-o", str(out / "report.html"),
            "--overwrite")),
    ]
