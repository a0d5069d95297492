"""The verb `demo`: draw people, then run the commands that fine-tune an encoder and train a head on them."""

import shlex
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError

BASICS_PER_CLASS = 80  #: one face of each of 80 people, 48 of them in the training split
COMPOUNDS_PER_CLASS = 50  #: of the first 50 people, 10 of them in the test split: fewer allow no interval
SIZE = 112
ABOUT = "about.txt"  #: marks a folder of the demonstration
LEARNER = "timm:test_resnet"  #: small enough to train from random weights within a minute


def run_demo(out: Path, *, untrained: Sequence[str], device: str, verb: Callable[[list[str]], int]) -> int:
    """Draw the faces and run each command with `verb`, until one fails; returns the exit code. Each command is printed
    before it runs, so that it can be repeated with other faces. Raises InputError if `out` has something else in it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder: name another (--out)")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / ABOUT).exists():
        raise InputError(f"{out} has other things in it, which the demo could overwrite: name another folder (--out)")
    (out / ABOUT).write_text("Written by `twofold demo`, which may overwrite everything here.\n", encoding="utf-8")
    basics, compounds = (
        draw_dataset(out / "faces", taxonomy=builtin_taxonomy(name), per_class=count, size=SIZE, seed=0, per_identity=1)
        for name, count in (("basic7", BASICS_PER_CLASS), ("cexpr7", COMPOUNDS_PER_CLASS)))
    both = build_manifest(pd.concat([basics.table, compounds.table], ignore_index=True), source=str(out))
    write_manifest(both, out / "faces.csv")
    write_manifest(compounds, out / "compounds.csv")
    print(f"{len(both)} faces drawn in {out / 'faces'}: basic and compound expressions, each person in one "
          "split only; chance is 14 % for seven classes", flush=True)
    for about, words in _steps(out, untrained=untrained, device=device):
        note = "done before" if words[0] == "finetune" and Path(words[-1]).exists() else ""
        if words[0] == "report" and not all(map(find_spec, ("matplotlib", "jinja2"))):
            note = "left out: pip install matplotlib jinja2, then run it"
        print(f"\n# {about}{f' ({note})' if note else ''}\n$ twofold {shlex.join(words)}", flush=True)
        if not note and (code := verb(list(words))):
            return code
    return 0


def _steps(out: Path, *, untrained: Sequence[str], device: str) -> list[tuple[str, tuple[str, ...]]]:
    """What each command is for, and its words. untrained: the backbones that are shown with random weights."""
    faces, weights, store = str(out / "faces"), str(out / "encoder.safetensors"), str(out / "store")
    drawn = [word for name in untrained for word in ("--weights", f"{name}=random:0")]
    return [
        ("a small encoder learns the basic expressions, from random weights", (
            "finetune", str(out / "faces.csv"), "--root", faces, "--backbone", LEARNER, "--weights", "random:0",
            "--target", "basic", "--size", "64", "--epochs", "30", "--batch-size", "32", "--lr", "0.003", "--shift",
            "0.05", "--crop", "0.9", "--device", device, "--out", weights)),
        ("it and the paper's architectures, untrained here, embed the compound faces", (
            "extract", str(out / "compounds.csv"), "--root", faces, "--store", store, "--backbones",
            ",".join([LEARNER, *untrained]), "--weights", f"{LEARNER}={weights}", *drawn, "--device", device)),
        ("compound expressions from basic ones: no compound face is used for training", (
            "fuse", store, "--backbones", LEARNER, "--head", "zeroshot", "--device", device)),
        ("a head is trained on compounds with all backbones; it is scored on people in no training set", (
            "fuse", store, "--device", device, "--out", str(out / "run"))),
        (f"a page of figures: {out / 'report.html'}", (
            "report", str(out / "run"), "--store", store, "--root", faces, "-o", str(out / "report.html"),
            "--overwrite")),
    ]
