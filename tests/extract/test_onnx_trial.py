"""ONNX models made to keep us busy: tried in a process of their own, with a bound on time and on memory."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.onnx import trial
from twofold.extract.encoders.registry import load_encoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def endless(path: Path, *, from_pixels: bool) -> Path:
    """A model whose Loop goes round 2^62 times, over a constant (so that loading computes it) or over the pixels."""
    helper, kind, value = onnx.helper, onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["x"], ["y"])], "body",
        [value("turn", onnx.TensorProto.INT64, []), value("go", onnx.TensorProto.BOOL, []), value("x", kind, [3])],
        [value("on", onnx.TensorProto.BOOL, []), value("y", kind, [3])])
    nodes = [helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
             helper.make_node("ReduceMean", ["mean", "first"], ["row"], keepdims=0),
             helper.make_node("Loop", ["turns", "true", "row" if from_pixels else "one"], ["looped"], body=body),
             helper.make_node("Add", ["mean", "looped"], ["sum"])]
    graph = helper.make_graph(
        nodes, "endless", [helper.make_tensor_value_info("pixels", kind, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("sum", kind, None)],
        [onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
         onnx.numpy_helper.from_array(np.array([0], np.int64), "first"),
         onnx.numpy_helper.from_array(np.array(2 ** 62, np.int64), "turns"),
         onnx.numpy_helper.from_array(np.array(True), "true"),
         onnx.numpy_helper.from_array(np.ones(3, np.float32), "one")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def huge(path: Path, *, side: int, from_pixels: bool, product: bool) -> Path:
    """A model of one operator over a square of `side` numbers: their matrix product, or only the square itself."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = onnx.numpy_helper.from_array(np.array([side, side], np.int64), "shape")
    nodes = [helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
             helper.make_node("ReduceMean", ["mean"], ["grey"], keepdims=0),
             helper.make_node("Expand", ["grey" if from_pixels else "one", "shape"], ["square"]),
             helper.make_node("MatMul", ["square", "square"], ["product"]),
             helper.make_node("ReduceMean", ["product" if product else "square"], ["scalar"], keepdims=0),
             helper.make_node("Add", ["mean", "scalar"], ["sum"])]
    graph = helper.make_graph(
        [node for node in nodes if product or node.op_type != "MatMul"], "huge",
        [helper.make_tensor_value_info("pixels", kind, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("sum", kind, None)],
        [shape, onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
         onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(trial, "CPU_SECONDS", 1)


def load(path: Path):
    return load_encoder(f"onnx:{path}", device="cpu")


@pytest.mark.parametrize("from_pixels", [True, False])
def test_a_loop_without_end_is_left_with_a_sentence(tmp_path, short, from_pixels):
    with pytest.raises(InputError, match=r"m\.onnx takes more than 1 seconds for one face, too long to be used"):
        load(endless(tmp_path / "m.onnx", from_pixels=from_pixels))


def test_one_operator_that_takes_minutes_is_left_with_a_sentence(tmp_path, short):
    """onnxruntime stops between two operators only: a product of 8,000 x 8,000 would run on."""
    with pytest.raises(InputError, match=r"m\.onnx takes more than 1 seconds for one face"):
        load(huge(tmp_path / "m.onnx", side=8_000, from_pixels=True, product=True))


@pytest.mark.parametrize("from_pixels", [True, False])
def test_a_model_that_takes_all_memory_is_refused(tmp_path, from_pixels):
    with pytest.raises(InputError, match=r"m\.onnx takes more than 768 MB for one face: it was refused"):
        load(huge(tmp_path / "m.onnx", side=100_000, from_pixels=from_pixels, product=False))


def test_a_model_that_ends_the_process_ends_another_than_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "TRIAL", "import os; os.abort()")
    with pytest.raises(InputError, match="it ends the process that tries it"):
        load(huge(tmp_path / "m.onnx", side=2, from_pixels=True, product=True))


def test_a_model_within_the_limits_is_taken(tmp_path):
    before = time.process_time() + sum(os.times()[2:4])
    assert load(huge(tmp_path / "m.onnx", side=100, from_pixels=True, product=True)).dim == 3
    assert time.process_time() + sum(os.times()[2:4]) - before < trial.CPU_SECONDS
