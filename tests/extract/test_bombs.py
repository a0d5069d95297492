"""Weights files that a stranger made to fill the memory or keep the machine busy: one sentence each, soon, in little
memory. All are read in one process of their own, whose largest memory is looked at."""

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

import twofold
from twofold.data.utils.errors import InputError
from twofold.extract.weights.read import read_checkpoint

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
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("w/version", "3\n")
            archive.writestr("w/data.pkl", pickled)
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
