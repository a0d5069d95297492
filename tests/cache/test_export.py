"""What other programs read of an exported store: NumPy, pyarrow and pandas are asked, not our own reader."""

import csv
import json
import tracemalloc

import numpy as np
import pytest

from tests.cache.conftest import put
from twofold.cache import export as export_module
from twofold.cache.export import join_files, write_npz
from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy

KEYS = [f"faces/{number:02d}é.jpg" for number in range(30)]
COLUMNS = ("key", "split", "basic", "compound", "group", "time", "source", "frame")


@pytest.fixture
def store(tmp_path):
    """Two files of 30 faces, of which one file lacks the first two; manifest order is not that of the files."""
    folder, rng = tmp_path / "store", np.random.default_rng(0)
    folder.mkdir()
    put(folder / "a.original.h5", rng.standard_normal((30, 5)), keys=KEYS, backbone="timm:a",
        weights="sha256:" + "0" * 64)
    put(folder / "b.original.h5", rng.standard_normal((28, 3)), keys=KEYS[2:], backbone="timm:b")
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, key in reversed(list(enumerate(KEYS))):
            label = builtin_taxonomy("cexpr7").classes[number % 7] if number % 3 else ""
            split = ("train", "test", "")[number % 3]
            writer.writerow((key, split, "", label, f"s{number // 4}", f"{number}.5", "clip.mp4",
                             number if number % 2 else ""))
    return Store(folder)


@pytest.fixture
def export(cli, store, tmp_path):
    """Export the store to a file of tmp_path by the verb; more words are options."""
    return lambda name, *words: cli("cache", "export", store.path, "-o", tmp_path / name, *words)


@pytest.fixture
def expected(store):
    """Keys and labels in manifest order without what one file lacks, and the features of both files."""
    with store.manifest_path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["key"] in KEYS[2:]]
    keys = [row["key"] for row in rows]
    return rows, {file.path.stem: file.read(keys, dtype="float16") for file in store.files()}


def as_text(value) -> str:
    """A number, or a text, as the manifest has it."""
    return value if isinstance(value, str) else "" if value != value else f"{value:g}"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(export_module, "BLOCK", 7)


def test_numpy_reads_the_archive_without_pickles(export, expected, tmp_path):
    done = export("out.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["left_out"] == 2 and json.loads(done.stdout)["untrained"] == ["b.original"]
    rows, features = expected
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive["keys"].tolist() == [row["key"] for row in rows]
        for name in COLUMNS[1:]:
            assert [as_text(value) for value in archive[name].tolist()] == [row[name] for row in rows]
        assert archive["time"].dtype == archive["frame"].dtype == np.float64 and archive["group"].dtype.kind == "U"
        assert archive["streams"].tolist() == list(features) and archive["left_out"].tolist() == [KEYS[1], KEYS[0]]
        assert archive["left_out_reasons"].tolist() == ["not in b.original.h5"] * 2
        for name, values in features.items():
            assert archive[name].dtype == np.float16
            np.testing.assert_array_equal(archive[name], values)
        assert [json.loads(text)["backbone"] for text in archive["recipes"]] == ["timm:a", "timm:b"]


def test_pyarrow_and_pandas_read_the_table(export, expected, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is optional")
    pandas = pytest.importorskip("pandas")
    done = export("out.parquet")
    assert done.returncode == 0 and "28 samples; 2 samples left out (the first is faces/01" in done.stdout, done.stderr
    assert "b.original  3-d * UNTRAINED" in done.stdout
    rows, features = expected
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.names == [*rows[0], *features]
    for name in rows[0]:
        values = [None if value is None else as_text(value) for value in table[name].to_pylist()]
        assert values == [row[name] or None for row in rows]
    assert [str(table.schema.field(name).type) for name in ("time", "frame", "group")] == ["double", "int64", "string"]
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    for name, values in features.items():
        assert table.schema.field(name).type.list_size == values.shape[1]
        np.testing.assert_array_equal(np.stack(frame[name]), values.astype(np.float32))
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 4
    assert json.loads(table.schema.metadata[b"twofold-recipes"])["b.original"]["weights"] == "random:0"


@pytest.mark.parametrize("name", ["out.npz", "out.parquet"])
def test_nothing_is_replaced_unawares(export, tmp_path, name):
    pytest.importorskip("pyarrow", reason="Parquet is optional")
    assert export(name).returncode == 0
    again = export(name, "--backbones", "timm:a")
    assert again.returncode == 2 and "--overwrite" in again.stderr
    over = export(name, "--backbones", "timm:a", "--overwrite")
    assert over.returncode == 0 and "30 samples" in over.stdout, over.stderr
    (tmp_path / name).write_text("mine")
    refused = export(name, "--overwrite")
    assert refused.returncode == 2 and "is not a" in refused.stderr
    assert (tmp_path / name).read_text() == "mine" and not list(tmp_path.rglob(".tmp-*"))


def test_what_cannot_be_exported_is_a_sentence(export, store, tmp_path):
    for words, sentence in ((["x.csv"], "an export is NAME.npz"),
                            (["x.npz", "--view", "grey"], "no feature files of view 'grey'"),
                            (["x.npz", "--backbones", "timm:z"], "no features of 'timm:z'")):
        done = export(*words)
        assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
    put(store.path / "c.original.h5", np.zeros((1, 4)), keys=["elsewhere.jpg"], backbone="timm:c")
    done = export("x.npz")
    assert done.returncode == 2 and "no sample that all 3 files have" in done.stderr
    assert not (tmp_path / "x.npz").exists()


def test_a_damaged_file_leaves_no_export(export, store, tmp_path):
    path = store.path / "b.original.h5"
    row = store.files()[1].read(KEYS[10:11], dtype="float16").tobytes()
    path.write_bytes(path.read_bytes().replace(row, row[::-1]))
    done = export("out.npz")
    assert done.returncode == 2 and "b.original.h5" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_a_file_that_cannot_be_read_is_named_and_not_left_out(export, store, cli):
    (store.path / "b.original.h5").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for done in (export("out.npz"), cli("fuse", store.path)):
        assert done.returncode == 2 and "b.original.h5" in done.stderr and "git lfs pull" in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
    (store.path / "b.original.h5").unlink()
    (store.path / "b.original.h5").symlink_to("not fetched")
    done = export("out.npz")
    assert done.returncode == 2 and "b.original.h5: a link to nothing" in done.stderr
    assert export("out.npz", "--backbones", "timm:a").returncode == 0


def test_a_store_without_a_manifest_is_exported_without_labels(export, store, tmp_path):
    store.manifest_path.unlink()
    assert export("out.npz").returncode == 0
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["keys"].tolist() == KEYS[2:] and len(archive["left_out"]) == 2 and "split" not in archive.files


def test_memory_is_that_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "BLOCK", 512)
    (tmp_path / "large").mkdir()
    put(tmp_path / "large" / "a.h5", np.ones((20_000, 256)), keys=[f"{number}.jpg" for number in range(20_000)])
    faces = join_files(Store(tmp_path / "large"), backbones=(), view="original")
    _ = faces.files[0].position
    tracemalloc.start()
    write_npz(tmp_path / "out.npz", faces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out.npz").stat().st_size > 10_000_000 and peak < 4_000_000
