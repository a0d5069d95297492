"""What lies where a verb is to write: of no verb is anything replaced that it did not write, or without --overwrite."""

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import twofold
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils import outputs
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind

BACKBONE = "timm:test_resnet"
MINE = b"mine: years of work\n"


@dataclass(frozen=True)
class Verb:
    """A command and the file it writes."""

    words: str  #: {} stands for the file
    name: str
    input: str = ""  #: a file it reads, if it could be named as the output
    again: bool = True  #: running it twice is no replacement, since it takes seconds and gives the same bytes
    other: str = ""  #: words that make another content of it
    creates: str = ""  #: of what is written, where the option names a folder


VERBS = {
    "manifest csv": Verb("manifest csv table.csv -o {}", "out.csv", "table.csv", other="--split none"),
    "manifest folder": Verb("manifest folder faces -o {}", "out.csv", other="--map sadly_angry=sadly_fearful"),
    "manifest merge": Verb("manifest merge a=faces.csv b=table.csv -o {}", "out.csv", "faces.csv"),
    "manifest split": Verb("manifest split faces.csv -o {}", "out.csv", "faces.csv", other="--seed 3"),
    "manifest check": Verb("manifest check faces.csv --root faces --group-duplicates -o {}", "out.csv", "faces.csv"),
    "predict": Verb("predict run store -o {}", "out.csv", again=False, other="--top 2"),
    "report": Verb("report run -o {}", "out.html", other="--store store"),
    "report --figures": Verb("report run -o page.html --figures {}", "figures", other="--store store",
                             creates="forest-macro_f1.svg"),
    "weights convert": Verb("weights convert weights.pth -o {}", "out.safetensors", "weights.pth",
                            other="--classes basic7"),
    "extract --slurm-script": Verb(f"extract faces.csv --root faces --store new --backbones {BACKBONE} --weights "
                                   f"{BACKBONE}=random:0 --slurm-script {{}}", "job.sh", other="--slurm-tasks 9"),
    "finetune": Verb(f"finetune faces.csv --root faces --backbone {BACKBONE} --weights random:0 --device cpu "
                     "--target compound --epochs 1 --size 32 --out {}", "out.safetensors", other="--lr 0.01"),
    "cache card": Verb("cache card store", "store/README.md"),
    "export": Verb("export run -o {}", "exported", again=False, creates="README.md"),
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory, cli) -> Path:
    """Drawn faces, a store of them, a run and a weights file."""
    folder = tmp_path_factory.mktemp("outputs")
    faces = draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=10, size=32, seed=0)
    write_manifest(faces, folder / "faces.csv")
    write_manifest(faces, folder / "table.csv")
    store = twofold.Dataset(folder / "faces.csv", root=folder / "faces").extract(
        folder / "store", backbones=[BACKBONE], weights={BACKBONE: "random:0"}, device="cpu")
    store.fuse(out=folder / "run", epochs=1, seeds=1)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "weights.pth")
    return folder


@pytest.fixture
def place(ready, tmp_path) -> Path:
    """The same in a folder of its own, as links: verbs read it, and write beside."""
    for path in ready.iterdir():
        if path.name in ("store", "run"):
            (tmp_path / path.name).mkdir()
            for file in path.iterdir():
                (tmp_path / path.name / file.name).write_bytes(file.read_bytes())
        else:
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture
def run(cli, place) -> Callable:
    def run(verb: Verb, *more: str, output: str = ""):
        return cli(*verb.words.format(output or verb.name).split(), *more, cwd=place)

    return run


def target(place: Path, verb: Verb) -> Path:
    path = place / verb.name
    return path / verb.creates if verb.creates else path


def is_one_sentence(done, says: str) -> bool:
    lines = [line for line in done.stderr.strip().splitlines() if not line.endswith("/s]")]  # less bars of progress
    return done.returncode == 2 and len(lines) == 1 and says in lines[0]


@pytest.mark.parametrize("name", VERBS)
def test_a_file_is_replaced_only_if_it_is_the_verbs_own_and_when_told_to(name, place, run):
    verb = VERBS[name]
    path = target(place, verb)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(MINE)
    for more in ((), ("--overwrite",)):
        assert is_one_sentence(run(verb, *more), "is there already and is not a") and path.read_bytes() == MINE
    path.unlink()
    first = run(verb)
    assert first.returncode == 0, first.stderr
    written = path.read_bytes()
    again = run(verb)
    assert again.returncode == 0 if verb.again else is_one_sentence(again, "--overwrite replaces it"), again.stderr
    assert path.read_bytes() == written and not [*place.rglob(".tmp-*")]
    if verb.name == "store/README.md":  # what it says is the store's
        (place / "store/manifest.csv").write_text("key\n")
    if verb.other or verb.name == "store/README.md":
        assert is_one_sentence(run(verb, *verb.other.split()), "--overwrite replaces it") and (
            path.read_bytes() == written)
    replaced = run(verb, *verb.other.split(), "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert not verb.other or verb.creates or path.read_bytes() != written


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.input])
def test_an_input_is_never_the_output(name, place, run):
    verb = VERBS[name]
    source = place / verb.input
    content = source.read_bytes()
    os.link(source.resolve(), place / f"hard{Path(verb.name).suffix}")
    (place / f"soft{Path(verb.name).suffix}").symlink_to(source)
    names = [verb.input] if source.suffix == Path(verb.name).suffix else []
    for output in (*names, f"hard{Path(verb.name).suffix}", f"soft{Path(verb.name).suffix}"):
        assert is_one_sentence(run(verb, "--overwrite", output=output), "is the input"), output
    assert source.read_bytes() == content


@pytest.mark.parametrize("name", ["manifest csv", "weights convert"])  # one rule for all, as the tests above see
def test_what_is_no_file_is_no_output(name, place, run):
    verb = VERBS[name]
    suffix = Path(verb.name).suffix
    (place / f"folder{suffix}").mkdir()
    os.mkfifo(place / f"pipe{suffix}")
    (place / f"loop{suffix}").symlink_to(f"loop{suffix}")
    for output, reason in ((f"folder{suffix}", "it is a folder"), (f"pipe{suffix}", "it is not a regular file"),
                           (f"none/out{suffix}", "its folder is missing"), (f"loop{suffix}", "symbolic links")):
        assert is_one_sentence(run(verb, "--overwrite", output=output), reason), output


@pytest.mark.parametrize("words", ["predict run store -o run/predictions.csv",
                                   "predict run store -o store/manifest.csv",
                                   "manifest folder faces -o run/seen.csv", "report run -o run/run.json",
                                   "predict run faces.csv --root faces -o faces.csv",
                                   "weights convert weights.pth -o run/head.safetensors"])
def test_parts_of_runs_and_stores_are_no_outputs_of_others(words, place, cli):
    path = place / words.split()[-1]
    before = path.read_bytes()
    done = cli(*words.split(), "--overwrite", cwd=place)
    assert is_one_sentence(done, str(path.relative_to(place))), done
    assert path.read_bytes() == before


OWN = OutputKind("a text of ours", lambda path: path.read_bytes().startswith(b"ours"))


def test_a_link_stays_a_link_and_its_file_is_what_is_replaced(tmp_path):
    (tmp_path / "dated.txt").write_text("ours, old")
    (tmp_path / "latest.txt").symlink_to("dated.txt")
    Output(tmp_path / "latest.txt", OWN, overwrite=True).write_text("ours, new")
    assert (tmp_path / "latest.txt").is_symlink() and (tmp_path / "dated.txt").read_text() == "ours, new"
    (tmp_path / "next.txt").symlink_to("nothing.txt")
    Output(tmp_path / "next.txt", OWN).write_text("ours")
    assert (tmp_path / "nothing.txt").read_text() == "ours"


def test_what_appears_while_the_verb_is_at_work_stays(tmp_path):
    output = Output(tmp_path / "out.txt", OWN, overwrite=True)
    output.check()
    with pytest.raises(InputError, match="is not a text of ours"), output.writing() as temporary:
        temporary.write_text("ours")
        output.path.write_bytes(MINE)
    assert output.path.read_bytes() == MINE and [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_of_many_who_write_at_once_without_overwrite_one_succeeds(tmp_path):
    successes = []

    def write(number: int) -> None:
        with contextlib.suppress(InputError):
            Output(tmp_path / "out.txt", OWN).write_text(f"ours {number}")
            successes.append(number)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(write, range(20)))
    assert len(successes) == 1 and (tmp_path / "out.txt").read_text() == f"ours {successes[0]}"


@pytest.mark.parametrize("call", ["link", "replace", "fsync"])
def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, call):
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "out.txt"
    for old in (None, "ours, old"):
        if old:
            path.write_text(old)
        with monkeypatch.context() as patch:
            patch.setattr(outputs.os, call, crash)
            patch.setattr(Path, "replace", crash if call == "replace" else Path.replace)
            with contextlib.suppress(KeyboardInterrupt):
                Output(path, OWN, overwrite=True).write_text("ours, new")
        assert not path.exists() if old is None and call != "replace" else path.read_text() in (old, "ours, new")
        path.unlink(missing_ok=True)


def test_a_file_system_without_links_is_written_to_as_well(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(outputs.os, "link", refuse)
    Output(tmp_path / "out.txt", OWN).write_text("ours")
    assert (tmp_path / "out.txt").read_text() == "ours"


def test_the_api_replaces_a_run_only_when_told_to(place):
    store = twofold.Store(place / "store")
    with pytest.raises(InputError, match="--overwrite replaces it"):
        store.fuse(out=place / "run", epochs=2, seeds=1)
    (place / "run/notes.txt").write_bytes(MINE)
    store.fuse(out=place / "run", epochs=2, seeds=1, overwrite=True)
    assert (place / "run/notes.txt").read_bytes() == MINE
    assert np.isfinite(twofold.Run(place / "run").figures["accuracy"]).all()


@pytest.mark.parametrize("words", [
    f"extract faces.csv --root faces --store mine --backbones {BACKBONE} --weights {BACKBONE}=random:0",
    "cache merge store -o mine", "cache pull store mine", "fuse store --out mine", "export run -o mine",
    "sweep store --config sweep.toml --out mine", "crop faces -o mine"])
def test_a_folder_of_other_things_is_no_output(words, place, cli, monkeypatch):
    monkeypatch.setattr("twofold.data.faces.detectors.open_detector", lambda path: Model())
    (place / "mine").mkdir()
    (place / "mine/manifest.csv").write_bytes(MINE)
    (place / "mine/notes.txt").write_bytes(MINE)
    (place / "sweep.toml").write_text('heads = ["mlp"]\n')
    done = cli(*words.split(), cwd=place)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "mine" in done.stderr, done
    assert sorted(path.name for path in (place / "mine").iterdir()) == ["manifest.csv", "notes.txt"]
    assert (place / "mine/manifest.csv").read_bytes() == MINE


class Model:
    name, sha256 = "yunet", "0" * 64
