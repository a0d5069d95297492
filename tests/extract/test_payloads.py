"""Weights files that would run something, claim more than they hold, or fill the memory: they stay data, and get one
sentence each."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import twofold
from tests.extract.encoders import WEIGHTS, assert_whole
from twofold.data.utils.errors import InputError
from twofold.extract.weights.read import read_checkpoint


# ------------------------------------------------------------------------------------------------ live payloads
class Payload:
    """Pickles as a call of `function` with `arguments`, made when the pickle is loaded freely."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(trap: Path) -> dict[str, Payload]:
    (trap.parent / "evil_module.py").write_text(f"open({str(trap)!r}, 'w')")
    return {
        "posix.system": Payload(os.system, f"touch {trap}"),
        "builtins.exec": Payload(exec, f"open({str(trap)!r}, 'w')"),
        "builtins.open": Payload(open, str(trap), "w"),
        "builtins.eval": Payload(eval, f"__import__('evil_module') or open({str(trap)!r}, 'w')"),
        "importlib.import_module": Payload(__import__("importlib").import_module, "evil_module"),
        "builtins.bytearray": Payload(bytearray, 10**13),
        "numpy.zeros": Payload(np.zeros, (10**7, 10**6)),
        "_operator.mul": Payload(__import__("operator").mul, [0], 10**12),
    }


def containers(tree: object, folder: Path) -> list[Path]:
    torch.save(tree, folder / "zip.pth")
    torch.save(tree, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.pkl").write_bytes(pickle.dumps({**tree, "state_dict": {"a.w": np.ones(2, np.float32)}}))
    return [folder / "zip.pth", folder / "legacy.pth", folder / "plain.pkl"]


@pytest.mark.parametrize("name", ["posix.system", "builtins.exec", "builtins.open", "builtins.eval",
                                  "importlib.import_module", "builtins.bytearray", "numpy.zeros", "_operator.mul"])
def test_nothing_that_a_file_names_is_run(tmp_path, monkeypatch, name):
    """Functions that only an attack names refuse the file, others become stand-ins, whatever the container."""
    monkeypatch.syspath_prepend(str(tmp_path))
    trap = tmp_path / "trap"
    for path in containers({"state_dict": WEIGHTS, "extra": payloads(trap)[name]}, tmp_path):
        if name in ("numpy.zeros", "_operator.mul"):
            checkpoint = read_checkpoint(path)
            assert len(checkpoint.tensors) in (1, 4) and name.split(".")[-1] in " ".join(checkpoint.dropped)
        else:
            with pytest.raises(InputError, match=r"names \w+\.\w+, which no weights need; none of that was run"):
                read_checkpoint(path)
        assert not trap.exists() and "evil_module" not in sys.modules


def test_the_payloads_are_live(tmp_path):
    """Loaded freely, in a process of its own, the first would have left its file: the tests above can fail."""
    trap = tmp_path / "trap"
    torch.save({"extra": payloads(trap)["posix.system"]}, tmp_path / "w.pth")
    free = "import sys, zipfile, pickle as p; z = zipfile.ZipFile(sys.argv[1]); p.loads(z.read(z.namelist()[0]))"
    assert zipfile.ZipFile(tmp_path / "w.pth").namelist()[0].endswith("data.pkl")
    subprocess.run([sys.executable, "-c", free, tmp_path / "w.pth"], check=True)
    assert trap.exists()


def crafted(pickled: bytes, folder: Path, storages: dict[str, bytes] | None = None, **options) -> Path:
    """A torch zip with a pickle written by hand."""
    with zipfile.ZipFile(folder / "w.pth", "w", **options) as archive:
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data.pkl", pickled)
        for key, content in (storages or {}).items():
            archive.writestr(f"w/data/{key}", content)
    return folder / "w.pth"


def tensor_pickle(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0,
                  extra: object = None) -> bytes:
    """A checkpoint of one tensor over a storage that is said to hold `count` floats.

    extra: an object of some class, which becomes a stand-in.
    """
    stream = io.BytesIO()

    class Writer(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value == "the storage" else None

    tensor = Payload(torch._utils._rebuild_tensor_v2, "the storage", offset, size, stride, False, OrderedDict())
    Writer(stream, 2).dump({"state_dict": {"a.weight": tensor}, "extra": extra})
    return stream.getvalue()


@pytest.mark.parametrize("count, size, stride, offset", [
    (10**12, (10**12,), (1,), 0), (4, (10**6, 10**6), (0, 0), 0), (4, (2, 4), (4, 1), 0), (4, (4,), (1,), 1),
    (4, (-4,), (1,), 0), (4, (4,), (-1,), 3), (4, (4,), (1, 1), 0), (10**6, (4,), (1,), 0), (6, (6,), (1,), 0),
])
@pytest.mark.parametrize("extra", [None, Payload(np.zeros, 3)])
def test_tensors_that_claim_more_than_the_file_holds(tmp_path, count, size, stride, offset, extra):
    path = crafted(tensor_pickle(count, size, stride, offset, extra), tmp_path, {"0": struct.pack("4f", 1, 2, 3, 4)})
    with pytest.raises(InputError, match="cut off or damaged"):
        read_checkpoint(path)
    path = crafted(tensor_pickle(4, (2, 2), (1, 2), extra=extra), tmp_path, {"0": struct.pack("4f", 1, 2, 3, 4)})
    assert read_checkpoint(path).tensors["a.weight"].tolist() == [[1, 3], [2, 4]]  # an honest one


def test_a_zip_bomb_is_refused_unread(tmp_path):
    path = crafted(tensor_pickle(4, (4,), (1,)), tmp_path, {"0": bytes(64 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="unpacks to far more than its size"):
        read_checkpoint(path)


@pytest.mark.parametrize("pickled", [
    b"\x80\x02]r\xff\xff\xff\x7f.",  # LONG_BINPUT: a memo of two billion entries
    b"\x80\x04\x8e" + (2**50).to_bytes(8, "little") + b"abc.",  # BINBYTES8: a petabyte follows
    b"\x80\x02\x8b\xff\xff\xff\x7f" + b"1.",  # LONG4: a number of two gigabytes
    b"\x80\x02" + b"(" * 100 + b".", b"\x80\x02.", b"\x80\x02R.", b"\x80\x02cos\nsystem\n.junk",
    b"\x80\x02cposix\nsystem\n}(X\x01\x00\x00\x00aK\x01ub.", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00functionK\x01s\x86b.",  # writes into our own call
])
def test_pickles_written_to_hurt(tmp_path, pickled):
    (tmp_path / "plain.pkl").write_bytes(pickled)
    for path in (crafted(pickled, tmp_path), tmp_path / "plain.pkl"):
        with pytest.raises(InputError):
            read_checkpoint(path)


def test_a_pickle_cannot_alter_the_reader_for_the_next_file(tmp_path):
    """BUILD on what find_class gave: placeholders are made anew, our own calls and classes cannot be written to."""
    for target in (b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n",
                   b"cposix\nsystem\n", b"ctorch\nFloatStorage\n", b"c_codecs\nencode\n"):
        for state in (b"}X\x08\x00\x00\x00__init__Ns", b"N}X\x08\x00\x00\x00__init__Ns\x86"):
            (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + target + state + b"b.")
            with pytest.raises(InputError):
                read_checkpoint(tmp_path / "w.pkl")
    torch.save({"state_dict": WEIGHTS, "o": OrderedDict(a=np.float32(1))}, tmp_path / "w.pth")
    assert_whole(read_checkpoint(tmp_path / "w.pth").tensors)


# ------------------------------------ bombs, all read in one process of their own, whose largest memory is looked at
SECONDS = 90  #: for all of them together on a busy machine; quiet it takes ten, importing torch among it
MEGABYTES = 1_000
READ = """
import sys
from pathlib import Path
from twofold.data.utils.errors import InputError
from twofold.extract.weights.read import read_checkpoint
for path in map(Path, sys.argv[1:]):
    try:
        print("ACCEPTED", len(read_checkpoint(path).tensors), flush=True)
    except InputError as error:
        print(str(error).replace(chr(10), "|"), flush=True)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
PROTOCOL = b"\x80\x02"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def encoded_again_and_again() -> bytes:
    """A long text, kept, and encoded ten thousand times: a hundred thousand times the file."""
    return (PROTOCOL + b"c_codecs\nencode\nq\x01" + text("x" * 250_000) + text("latin1") + b"\x86q\x020"
            + b"](" + (b"h\x01h\x02R" * 10_000) + b"e.")


def copied_sizes() -> bytes:
    """A list of thirty thousand numbers, kept, and copied into tuples."""
    return (PROTOCOL + b"ctorch\nSize\nq\x01](" + b"K\x07" * 30_000 + b"e\x85q\x020]("
            + b"h\x01h\x02R" * 60_000 + b"e.")


def colliding_keys() -> bytes:
    """Numbers that all have the hash 0, as keys of one dictionary."""
    numbers = (k * (2 ** 61 - 1) for k in range(1, 120_000))
    return PROTOCOL + b"}(" + b"".join(
        b"\x8a\x0a" + number.to_bytes(10, "little", signed=True) + b"N" for number in numbers) + b"u."


def tuples_in_tuples() -> bytes:
    """As a key, so that its hash has to be taken, which ended the process."""
    return PROTOCOL + b"})" + b"\x85" * 200_000 + b"Ns."


def many_empty_sets() -> bytes:
    return b"\x80\x04](" + b"\x8f" * 2_000_000 + b"e."


@cache
def colliding_tuples() -> list[bytes]:
    """Thirty thousand pairs of small numbers with one and the same hash (Python's is xxHash without a seed), packed."""
    p1, p2, p5, most = 11400714785074694791, 14029467366897019727, 2870177450012600261, 1 << 64
    back, x, packed = pow(p2, -1, most), 0, []
    while len(packed) < 30_000:
        x += 1
        first = (p5 + x * p2) % most
        first = ((first << 31 | first >> 33) * p1) % most
        y = -first * back % most
        if y < 2 ** 60:
            packed.append(b"J" + struct.pack("<i", x) + b"\x8a\x08" + y.to_bytes(8, "little") + b"\x86")
    pairs = [pickle.loads(PROTOCOL + pair + b".") for pair in packed[:50]]
    assert len({hash(pair) for pair in pairs}) == 1
    return packed


def tuples_as_keys() -> bytes:
    return PROTOCOL + b"}(" + b"".join(pair + b"N" for pair in colliding_tuples()) + b"u."


def tuples_in_a_set() -> bytes:
    return b"\x80\x04\x8f(" + b"".join(colliding_tuples()) + b"\x90."


def tuples_in_an_ordered_dict() -> bytes:
    pairs = b"".join(pair + b"K\x01\x86" for pair in colliding_tuples()[:20_000])
    return PROTOCOL + b"ccollections\nOrderedDict\n](" + pairs + b"e\x85R."


BOMBS = {  # pickled, and what is said
    **dict.fromkeys((encoded_again_and_again, copied_sizes), "far more memory than|holds no weights"),
    colliding_keys: "numbers of 2\\^61", many_empty_sets: "more than 500000 steps",
    **dict.fromkeys((tuples_in_tuples, tuples_as_keys, tuples_in_a_set, tuples_in_an_ordered_dict),
                    "more than 20000 tuples"),
}


@pytest.mark.slow
def test_each_bomb_gets_a_sentence_in_little_memory(tmp_path):
    files = {}
    for bomb, message in BOMBS.items():
        pickled = bomb()
        plain, zipped = tmp_path / f"{bomb.__name__}.pkl", tmp_path / f"{bomb.__name__}.pth"
        plain.write_bytes(pickled)
        crafted(pickled, tmp_path).rename(zipped)
        files |= {plain: message, zipped: message}
    done = subprocess.run([sys.executable, "-c", READ, *files], text=True, capture_output=True, timeout=SECONDS,
                          env={**os.environ, "PYTHONPATH": str(Path(twofold.__file__).parents[1])})
    assert done.returncode == 0, done.stderr
    *lines, kilobytes = done.stdout.splitlines()
    for (path, message), line in zip(files.items(), lines, strict=True):
        with pytest.raises(InputError, match=message):
            raise InputError(line)
        assert line.startswith(str(path)) and len(line) < 400, line
    assert int(kilobytes) < MEGABYTES << 10


def test_a_history_of_large_seeds_and_copies_is_no_bomb(tmp_path):
    """Seeds of 64 bits, old numpy arrays as encoded text, sets and ordered dictionaries: as training scripts leave."""
    tree = {"pairs": {(n, "a"): n for n in range(500)},
            "state_dict": {f"layer{n}.weight": np.full(1000, n, np.float32) for n in range(50)},
            "seeds": [2 ** 64 - 1 - n for n in range(500)], "names": set(map(str, range(3000))),
            "order": OrderedDict((f"k{n}", n) for n in range(3000)), "losses": [0.5] * 100_000}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(tree, protocol=2))
    checkpoint = read_checkpoint(tmp_path / "w.pkl")
    assert len(checkpoint.tensors) == 50 and checkpoint.tensors["layer7.weight"][0] == 7
