"""Every way to an answer for a portrait gives that of crop, extract and predict: command, Python and page."""

import os
from functools import partial

import numpy as np
import pandas as pd
import pytest

import twofold
from tests.fuse.serve.conftest import embed_of
from twofold.data.labels import builtin_taxonomy
from twofold.data.utils.csv_files import read_table
from twofold.fuse.runs.read import read_run
from twofold.fuse.serve.recogniser import Recogniser
from twofold.fuse.serve.worker import open_finder

COUNT = int(os.environ.get("TWOFOLD_PORTRAITS", "28"))  #: there are 333
NETWORK = "timm:test_resnet"
CLASSES = builtin_taxonomy("cexpr7").classes


@pytest.mark.slow
@pytest.mark.parametrize("samples", ["crops", "whole"])
def test_all_ways_agree_on_portraits(cli, real, served, tmp_path, monkeypatch, samples):
    """A run on crops crops them first, a run on whole pictures takes them whole; the labels are made up."""
    detector = real / "weights/detectors/yunet_n_dynamic.onnx"
    paths = sorted((real / "faces_lfw_expr/images").iterdir())[:COUNT]
    portraits, store, run = tmp_path / "portraits", tmp_path / "store", tmp_path / "run"
    portraits.mkdir()
    for path in paths:
        (portraits / path.name).write_bytes(path.read_bytes())
    paths = sorted(portraits.iterdir())

    def do(*words):
        done = cli(*words)
        assert done.returncode in (0, 1), done.stderr

    root, table = portraits, pd.DataFrame({"key": [path.name for path in paths]})
    if samples == "crops":
        root = tmp_path / "crops"
        do("crop", portraits, "-o", root, "--detector", detector)
        table = read_table(root / "faces.csv")
    names = sorted(set(table["source" if samples == "crops" else "key"]))
    number = table["source" if samples == "crops" else "key"].map({name: n for n, name in enumerate(names)})
    table["compound"] = [CLASSES[n % 7] for n in number]
    table["split"] = [("train", "train", "val", "test")[n // 7 % 4] for n in number]
    table.to_csv(tmp_path / "labelled.csv", index=False)
    do("extract", tmp_path / "labelled.csv", "--root", root, "--store", store, "--backbones", NETWORK, "--weights",
       f"{NETWORK}=random:0", "--precision", "fp32", "--device", "cpu")
    do("fuse", store, "--out", run, "--epochs", 60, "--lr", 0.02, "--seeds", 2, "--hidden", 32)
    do("predict", run, store, "-o", tmp_path / "stored.csv")
    do("predict", run, portraits, "-o", tmp_path / "direct.csv", "--detector", detector, "--device", "cpu")
    expected, direct = (read_table(tmp_path / f"{name}.csv") for name in ("stored", "direct"))
    scores = ["prediction", *CLASSES]
    if samples == "whole":
        assert expected["key"].tolist() == direct["key"].tolist()
    assert expected[scores].equals(direct[scores]) and expected["prediction"].nunique() > 2
    expected = expected[expected["prediction"] != "no face"]
    honest = expected[list(CLASSES)].to_numpy(float)
    answers = twofold.Run(run).predict(paths, detector=detector, device="cpu")
    assert answers["prediction"].tolist() == expected["prediction"].tolist()
    assert np.abs(answers[list(CLASSES)] - honest).to_numpy().max() < 2e-6
    trained = read_run(run)
    find = partial(open_finder, tuple(trained.record.crops), detector, False)
    server = served(Recogniser(trained, find(), embed_of(trained), 32))
    replies = [server.recognise(path.read_bytes()) for path in paths]
    assert {status for status, _ in replies} == {200}
    live = np.array([face["expressions"] for _, reply in replies for face in reply["faces"]])
    assert [CLASSES[best] for best in live.argmax(axis=1)] == expected["prediction"].tolist()
    assert np.abs(live - honest).max() < 2e-6
    print(f"{samples}: {len(paths)} portraits, {len(honest)} faces agree, probabilities within "
          f"{np.abs(answers[list(CLASSES)] - honest).to_numpy().max():.1e} and {np.abs(live - honest).max():.1e}")
