"""Weights files as people have them, good and bad; live payloads that would leave a file behind if anything ran."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.extract.encoders import WEIGHTS, RecorderMeter, assert_whole, load
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.report import convert
from twofold.extract.weights.read import is_average, read_checkpoint


def poster_like() -> dict:
    """The entries of a published POSTER++ checkpoint."""
    recorder = RecorderMeter()
    return {"epoch": 150, "state_dict": OrderedDict((f"module.{name}", value) for name, value in WEIGHTS.items()),
            "best_acc": torch.tensor([92.21]), "optimizer": {"state": {0: {"m": torch.ones(9)}}, "param_groups": []},
            "recorder": recorder, "recorder1": recorder}


# --------------------------------------------------------------------------------------------------- good files
@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"model": w, "epoch": 3}, lambda w: OrderedDict(w),
    lambda w: {"model_state_dict": {f"module.{k}": v for k, v in w.items()}, "loss": 0.5},
    lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
    lambda w: {"model": {k: torch.nn.Parameter(v, requires_grad=False) for k, v in w.items()}},
])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_container_gives_the_same_weights(tmp_path, wrap, legacy):
    torch.save(wrap(WEIGHTS), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert_whole(checkpoint.tensors)
    assert checkpoint.format == ("torch before 1.6" if legacy else "torch") and not checkpoint.dropped
    assert checkpoint.record()["parameters"] == 29


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_pickled_recorders_of_numpy_arrays(tmp_path, legacy):
    torch.save(poster_like(), tmp_path / "poster.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "poster.pth", weights_only=True)
    checkpoint = read_checkpoint(tmp_path / "poster.pth")
    assert_whole(checkpoint.tensors)
    assert checkpoint.dropped == {"tests.extract.encoders.RecorderMeter": 1} and checkpoint.container == "state_dict"
    assert list(checkpoint.entries) == ["epoch", "state_dict", "best_acc", "optimizer", "recorder", "recorder1"]


def test_safetensors(tmp_path):
    wrapped = {f"module.{name}": value for name, value in WEIGHTS.items()}
    save_file(wrapped, tmp_path / "w.safetensors", {"classes": "a"})
    os.rename(tmp_path / "w.safetensors", tmp_path / "w.pth")  # known by its content, not its name
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert sorted(checkpoint.tensors) == sorted(WEIGHTS) and checkpoint.metadata == {"classes": "a"}
    assert torch.equal(checkpoint.tensors["conv.weight"], WEIGHTS["conv.weight"])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_plain_pickles_of_numpy_arrays(tmp_path, protocol):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.bias": np.array([1.5, 2.5], ">f8"),
              "c.weight": np.asfortranarray(np.arange(4, dtype=np.int64).reshape(2, 2))}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    tensors = read_checkpoint(tmp_path / "w.pkl").tensors
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_whatever_else_training_scripts_put_beside_the_weights(tmp_path):
    import argparse

    beside = {"best_acc": np.float64(91.5), "args": argparse.Namespace(lr=1), "path": tmp_path, "seen": {1, 2},
              "objects": np.array(["a", None], object), "type": torch.float16, "size": torch.Size([1])}
    torch.save({"state_dict": WEIGHTS, **beside}, tmp_path / "w.pth")
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert_whole(checkpoint.tensors)
    assert list(checkpoint.entries) == ["state_dict", *beside]
    assert [name.split(".")[-1] for name in checkpoint.dropped] == ["Namespace", type(tmp_path).__name__]


def test_views_and_shared_storages_come_back_as_they_were(tmp_path):
    base = torch.arange(20.0)
    given = {"a.w": base[4:10].reshape(2, 3).T, "b.w": base, "empty.w": torch.empty(0, 3)}
    torch.save({"state_dict": given, "recorder": RecorderMeter()}, tmp_path / "w.pth")
    tensors = read_checkpoint(tmp_path / "w.pth").tensors
    assert all(torch.equal(tensors[name], given[name]) for name in given)

# ---------------------------------------------------------------------------------------------------- bad files
@pytest.mark.parametrize("content, message", [
    (b"", "is empty: download it again"), (b"\n<!DOCTYPE html><html>Quota</html>", "is a web page, not weights"),
    (b"\xef\xbb\xbf<html>Sign in</html>", "is a web page, not weights"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 351234567\n", "is a Git LFS pointer"),
    (b'{"error": "Not Found"}', "is a JSON text"), (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5 file, as Keras"),
    (b"\xff\xd8\xff\xe0 a photograph", "is not a weights file: it starts with"),
])
def test_what_people_get_instead_of_weights(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_truncated_download_of_any_kind(tmp_path, share):
    torch.save(poster_like(), tmp_path / "zip.pth")
    torch.save({"state_dict": WEIGHTS}, tmp_path / "plain.pth")
    torch.save(poster_like(), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, tmp_path / "st.safetensors")
    (tmp_path / "np.pkl").write_bytes(pickle.dumps({"a": np.zeros((40, 40), np.float32)}))
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:max(12, int(share * len(content)))])
        with pytest.raises(InputError, match=r"cut off or damaged.*download it again"):
            read_checkpoint(path)


@pytest.mark.parametrize("tree, message", [
    ({"epoch": 3, "best_acc": torch.tensor([61.0]), "optimizer": {"state": {0: torch.ones(3)}, "param_groups": [{}]}},
     "holds the state of an optimizer and no weights"),
    ({"state": {0: {"m": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}, "state of an optimizer and no weights"),
    ({"state_dict": {"state": {}, "param_groups": []}, "epoch": 1}, "state of an optimizer and no weights"),
    ({"epoch": 3, "loss": 0.5}, "holds no weights, only 'epoch', 'loss'"), ({}, "holds no weights, only nothing"),
    ([1, 2], "holds no weights but list"), (torch.ones(3), "holds no weights but tensor"),
])
@pytest.mark.parametrize("legacy", [False, True])
def test_files_without_weights(tmp_path, tree, message, legacy):
    torch.save(tree, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 1}])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch's old format looks for the source of classes
def test_a_whole_pickled_model_gives_its_state_dict_and_is_not_run(tmp_path, monkeypatch, caplog, wrap, legacy):
    """As HSEmotion's files of timm's networks are; the class itself must not be asked for."""
    import timm

    model = timm.create_model("test_efficientnet", num_classes=8)
    model.register_buffer("passing", torch.ones(2), persistent=False)
    torch.save(wrap(model), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    monkeypatch.delattr("timm.models.efficientnet.EfficientNet")
    checkpoint = read_checkpoint(tmp_path / "w.pt")
    monkeypatch.undo()
    state = model.state_dict()
    assert {*checkpoint.tensors} == {*state} and next(iter(checkpoint.dropped)).endswith("EfficientNet")
    assert all(torch.equal(tensor, state[name]) for name, tensor in checkpoint.tensors.items())
    caplog.set_level("INFO")
    whole, plain = (load("timm:test_efficientnet", tmp_path / name) for name in ("w.pt", "state.pt"))
    assert (whole.weights, whole.unnamed_classes) == (plain.weights, 8)
    assert "looks like a timm EfficientNet or MobileNet with 8 classes; objects left out, nothing of" in caplog.text


def test_pickled_objects_that_are_no_module_and_modules_without_end(tmp_path):
    torch.save(RecorderMeter(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"is a pickled object of a class of its author.*names .*RecorderMeter"):
        read_checkpoint(tmp_path / "w.pth")
    torch.save({"model": RecorderMeter(), "epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds a pickled object under 'model'"):
        read_checkpoint(tmp_path / "w.pth")
    module = torch.nn.Linear(2, 2)
    for _ in range(40):  # each holds the one before it twice
        module = torch.nn.ModuleList([module, module])
    torch.save(module, tmp_path / "w.pth")
    with pytest.raises(InputError, match="more than 20000 modules"):
        read_checkpoint(tmp_path / "w.pth")


def test_zips_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"not one that torch.save wrote"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:  # the entries by which a saved program differs
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/constants.pkl", b"\x80\x02).")
        archive.writestr("net/code/__torch__.py", "")
    with pytest.raises(InputError, match="is a TorchScript program"):
        read_checkpoint(path)
    with pytest.raises(InputError, match="there is no such weights file"):
        read_checkpoint(tmp_path)


# --------------------------------------------------------------------------------------- several sets, and wrappers
LAYOUTS = [  # of weights of the last step and their average, and the entries of both
    *((lambda raw, mean, raw_name=raw_name, name=name: {raw_name: raw, name: mean, "epoch": 3}, name, raw_name)
      for raw_name, name in (
          ("state_dict", "state_dict_ema"), ("params", "params_ema"), ("model", "averaged.model"))),
    (lambda raw, mean: {"model": raw, "model_ema": {"module": mean, "decay": 0.99}}, "model_ema", "model"),
    (lambda raw, mean: {"state_dict": raw, "ema": {"state_dict": mean}}, "ema", "state_dict"),
    (lambda raw, mean: {"model": raw, "ema_state": {"shadow": mean}}, "ema_state", "model"),
    (lambda raw, mean: {"model": raw, "Ema_state": [{"step": 1, "sets": mean}]}, "Ema_state", "model"),
    (lambda raw, mean: {"model": raw, "swa_model": {
        "n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in mean.items()}}}, "swa_model",
     "model"),
    (lambda raw, mean: {"model": {f"model.{name}": value for name, value in raw.items()}, "my_ema": mean}, "my_ema",
     "model"),
    (lambda raw, mean: {"state_dict": under("model", raw), "callbacks": {  # Lightning
        "ModelCheckpoint{'mode': 'min'}": {"best": 0.5}, "EMACallback{'decay': 0.9}": {"state": under("model", mean)}}},
     "callbacks.EMACallback.state", "state_dict"),
    (lambda raw, mean: {"state_dict": raw, "callbacks": {"a": {"net": {"ema": mean}}}}, "callbacks.a.net.ema",
     "state_dict"),
]


def test_names_of_averages_as_training_scripts_have_them():
    assert all(map(is_average, ("model_ema", "ema_model_state_dict", "model_ema_state_dict", "swa_state_dict", "netEMA",
                                "EMA", "WeightAveraging", "modelEMA", "avg_model", "teacher.backbone")))
    assert not any(map(is_average, ("state_dict", "schema", "emas", "cinema", "student", "ema\x1b[2J", None)))


@pytest.mark.parametrize("layout, container, other", LAYOUTS)
def test_averaged_weights_are_taken_as_timm_does_and_the_others_can_be_had(tmp_path, caplog, layout, container, other):
    import timm

    raw = {name: value * 2 if value.is_floating_point() else value
           for name, value in timm.create_model("test_resnet").state_dict().items()}
    averaged = timm.create_model("test_resnet").state_dict()
    path = tmp_path / "last.pth.tar"
    torch.save(layout(raw, averaged), path)
    torch.save(raw, tmp_path / "raw.pth")
    torch.save({"ema": averaged}, tmp_path / "alone.pth")
    caplog.set_level("INFO")
    ours = load("timm:test_resnet", path)
    assert f"those under '{container}' are taken; timm:test_resnet?entry={other} takes the others" in caplog.text
    assert ours.architecture == f"timm.test_resnet, weights of {container}" and "cannot be read" not in caplog.text
    alone = load("timm:test_resnet", tmp_path / "alone.pth")
    assert alone.weights == ours.weights and alone.architecture == "timm.test_resnet"
    last_step = load(f"timm:test_resnet?entry={other}", path)
    assert last_step.weights == load("timm:test_resnet", tmp_path / "raw.pth").weights
    with pytest.raises(InputError, match="no weights under 'swa': it has them under"):
        load("timm:test_resnet?entry=swa", path)


def test_an_average_beside_the_tensors_of_the_file_itself_is_offered(tmp_path, caplog):
    import timm

    raw = {name: value * 2 if value.is_floating_point() else value
           for name, value in timm.create_model("test_resnet").state_dict().items()}
    torch.save(raw | {"ema": timm.create_model("test_resnet").state_dict()}, tmp_path / "flat.pth")
    torch.save(raw, tmp_path / "raw.pth")
    caplog.set_level("INFO")
    taken = load("timm:test_resnet", tmp_path / "flat.pth")
    assert "those of the file itself are taken; timm:test_resnet?entry=ema takes the others" in caplog.text
    assert taken.weights == load("timm:test_resnet", tmp_path / "raw.pth").weights
    assert load("timm:test_resnet?entry=ema", tmp_path / "flat.pth").weights != taken.weights


@pytest.mark.parametrize("layout", [
    lambda raw, mean, parameters: {"model": raw, "my_ema": {"decay": 0.99, "shadow_params": [*parameters.values()]}},
    lambda raw, mean, parameters: {"model": raw, "my_ema": {"shadow": parameters}},  # without buffers
    lambda raw, mean, parameters: {"model": raw, "callbacks": {"my_ema": {"weights": [*parameters.values()]}}},
    lambda raw, mean, parameters: {"model": raw, "my_ema": {f"other{i}": v for i, v in enumerate(mean.values())}},
])
def test_an_average_that_cannot_be_read_by_name_is_said(tmp_path, caplog, layout):
    import timm

    model = timm.create_model("test_resnet")
    raw, path = model.state_dict(), tmp_path / "last.pth"
    mean = {name: value * 2 for name, value in raw.items()}
    torch.save(layout(raw, mean, {name: mean[name] for name, _ in model.named_parameters()}), path)
    torch.save({"model": raw}, tmp_path / "raw.pth")
    caplog.set_level("INFO")
    assert load("timm:test_resnet", path).weights == load("timm:test_resnet", tmp_path / "raw.pth").weights
    assert "last.pth also holds an average of the weights that cannot be read by name, under '" in caplog.text
    assert "my_ema" in caplog.text
    assert "several sets" not in caplog.text


def test_no_average_is_seen_in_other_entries(tmp_path):
    loop: dict = {"a": torch.ones(2, 3)}
    loop["loop"] = loop
    beside = {"ema_loss": torch.ones(3), "average": {"a.weight": torch.ones(2)}, "shadow": loop, "schema": WEIGHTS,
              "ema\x1b[2J": WEIGHTS, "ema_deep": {"a": {"b": {"c": WEIGHTS}}}, "swa": {"decay": 0.9, "n": [1, 2]}}
    torch.save({"model": WEIGHTS, **beside}, tmp_path / "w.pth")
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert_whole(checkpoint.tensors)
    assert (checkpoint.container, checkpoint.others, checkpoint.unread) == ("model", (), ())


def under(path: str, state: dict) -> dict:
    return {f"{path}.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("wrap, left_out", [
    (lambda state: {"state_dict": under("model", state)}, ""), (lambda state: {"model": under("encoder", state)}, ""),
    (lambda state: {"n_averaged": torch.tensor(3), **under("module", state)}, ""),
    (lambda state: {"state_dict": under("model.backbone", state)}, ""),
    (lambda state: under("_forward_module.model.net.encoder", state), ""),
    (lambda state: {"state_dict": {**under("module.encoder", state), "module.loss.weight": torch.ones(7)}},
     "1 of its 78 tensors are no part of this network and left out (loss.weight)"),
    (lambda state: {**under("model.backbone", {name: value for name, value in state.items() if name[:3] != "fc."}),
                    **{f"model.{name}": value for name, value in state.items() if name[:3] == "fc."},
                    "queue": torch.ones(3)}, "left out (queue)"),
    (lambda state: {"state_dict": {**under("model", state), **{f"my_ema.{name.replace('.', '')}": value for name, value
                                                               in state.items()}}}, "left out (my_ema.conv10weight, "),
    (lambda state: {"weights": {"params": state}}, ""), (lambda state: [state], ""),
    (lambda state: {"params_ema": state, "epoch": 3}, ""), (lambda state: {"ema": {"module": state, "updates": 3}}, ""),
    (lambda state: {"epoch": 3, "best": 0.5, **state}, ""),
])
def test_what_wrappers_put_before_the_names_is_removed(tmp_path, caplog, wrap, left_out):
    import timm

    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    caplog.set_level("INFO")
    plain, wrapped = (load("timm:test_resnet", tmp_path / f"{name}.pth") for name in ("plain", "wrapped"))
    assert (wrapped.weights, wrapped.architecture, wrapped.unnamed_classes) == (plain.weights, "timm.test_resnet", 7)
    assert left_out in caplog.text and ("left out" in caplog.text) == bool(left_out) and "several" not in caplog.text


@pytest.mark.parametrize("layout, taken, other", [  # of the last step's weights and those that are taken
    (lambda raw, mean: {"student": under("module.backbone", raw), "teacher": under("backbone", mean)},
     "teacher", "student"),
    (lambda raw, mean: {"state_dict": under("model", raw) | under("teacher", mean)}, "teacher", "model"),
    (lambda raw, mean: {"state_dict": under("model", raw) | under("model_ema.module", mean)}, "model_ema.module",
     "model"),
    (lambda raw, mean: under("student.backbone", raw) | under("teacher.backbone", mean) | {
        "student.head.weight": torch.ones(9, 96), "center": torch.ones(1, 9)}, "teacher.backbone", "student.backbone"),
    (lambda raw, mean: under("encoder_q", mean) | under("encoder_k", raw) | {"queue": torch.ones(3)}, "encoder_q",
     "encoder_k"),
    (lambda raw, mean: {"online": mean, "target": raw}, "online", "target"),
    (lambda raw, mean: {"model": mean, "best_model": raw}, "model", "best_model"),
    (lambda raw, mean: {"g": raw, "g_ema": mean}, "g_ema", "g"),
    (lambda raw, mean: {"student": mean, "teacher": {name: value[:1] for name, value in raw.items() if value.ndim}},
     "student", ""),  # of a larger teacher whose knowledge was distilled
    (lambda raw, mean: under("teacher", {name: torch.cat([value, value]) for name, value in raw.items() if value.ndim}
                             ) | under("student", mean), "student", ""),
])
def test_of_two_networks_in_a_file_one_is_taken_by_rule_and_the_other_offered(tmp_path, caplog, layout, taken, other):
    import timm

    mean = timm.create_model("test_resnet", num_classes=7).state_dict()
    raw = {name: value * 2 if value.is_floating_point() else value for name, value in mean.items()}
    for name, tree in (("two", layout(raw, mean)), ("raw", raw), ("mean", mean)):
        torch.save(tree, tmp_path / f"{name}.pth")
    weights = {name: load("timm:test_resnet", tmp_path / f"{name}.pth").weights for name in ("raw", "mean")}
    caplog.set_level("INFO")
    assert load("timm:test_resnet", tmp_path / "two.pth").weights == weights["mean"]
    if other:
        said = f"those under '{taken}' are taken; timm:test_resnet?entry={other} takes the others"
        assert said in caplog.text
        assert load(f"timm:test_resnet?entry={other}", tmp_path / "two.pth").weights == weights["raw"]
        convert(tmp_path / "two.pth", tmp_path / "raw.safetensors", entry=other)
        assert load("timm:test_resnet", tmp_path / "raw.safetensors").weights == weights["raw"]
    assert load(f"timm:test_resnet?entry={taken}", tmp_path / "two.pth").weights == weights["mean"]
    with pytest.raises(InputError, match=f"no weights under 'nope': it has them under .*'{taken.partition('.')[0]}"):
        convert(tmp_path / "two.pth", tmp_path / "nope.safetensors", entry="nope")


def test_weights_of_other_kinds_are_named(tmp_path):
    torch.save({"conv1.weight": torch.ones(2, dtype=torch.int8), "conv1.scale": torch.ones(1)}, tmp_path / "int8.pth")
    for refused in (lambda path: load("timm:test_resnet", path), lambda path: convert(path, tmp_path / "x.safetensors")
                    ):
        with pytest.raises(InputError, match="holds a quantised network"):
            refused(tmp_path / "int8.pth")
    save_file({"vit.embeddings.cls_token": torch.ones(1, 1, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="looks like a ViT of transformers"):
        load("timm:test_vit", tmp_path / "model.safetensors")
