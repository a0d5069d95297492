"""Encoders exported to ONNX: a real one fixed at batch 1, and small ones made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.extract.encoders import save_onnx
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.onnx import external_files, read_model
from twofold.extract.encoders.registry import load_encoder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

MOBILEFACENET = "weights/face_recognition/mobilefacenet_foamliu_msceleb_128d.onnx"


def model(path: Path, *, outputs: tuple[str, ...] = ("mean",), axes: tuple[int, ...] = (2, 3), keepdims: int = 0,
          **more) -> Path:
    """A model that averages the pixels of each channel (and again, for each further output)."""
    nodes = [("Cast", "pixels", "cast", {"to": onnx.TensorProto.FLOAT}),
             ("ReduceSum", "zeros", "nothing", {"keepdims": 0}), ("Add", "cast nothing", "real", None)]
    nodes += [("ReduceMean", "real axes", name, {"keepdims": keepdims}) for name in outputs]
    arrays = {"axes": np.array(axes, np.int64), "zeros": np.zeros(300, np.float32)}
    return save_onnx(path, nodes, arrays, outputs=outputs, **more)


def load(name: str, **more):
    return load_encoder(name, device="cpu", **more)


PIXELS = torch.randint(0, 256, (7, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MEANS = PIXELS.float().mean((1, 2)).numpy()
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize("batch", [1, 3, "n"])
@pytest.mark.parametrize("layout, axes", [([3, 16, 16], (2, 3)), ([16, 16, 3], (1, 2))])
def test_any_batch_and_layout(tmp_path, batch, layout, axes):
    encoder = load(f"onnx:{model(tmp_path / 'tiny.onnx', shape=[batch, *layout], axes=axes)}")
    assert (encoder.name, encoder.dim, encoder.tap) == ("onnx:tiny", 3, "mean") and encoder.preprocessing.size == 16
    np.testing.assert_allclose(encoder.encode(PIXELS), (MEANS / 255 - MEAN) / STD, rtol=1e-4)


@pytest.mark.parametrize("node, says", [
    (("ReduceMean", "mean zero", "batch", {"keepdims": 1}), "depends on the others in its batch"),
    (("RandomNormalLike", "mean", "batch", {}), "comes out otherwise each time")])
def test_a_model_in_training_mode_is_refused(tmp_path, node, says):
    nodes = [("ReduceMean", "pixels axes", "mean", {"keepdims": 0}), node, ("Sub", "mean batch", "y", {})]
    path = save_onnx(tmp_path / "m.onnx", nodes, {"axes": np.array((2, 3)), "zero": np.array([0])}, outputs=("y",),
                     shape=["n", 3, 16, 16])
    with pytest.raises(InputError, match=f"{says}; export it in evaluation mode"):
        load(f"onnx:{path}")


def test_what_options_and_metadata_say_about_the_input(tmp_path):
    path = model(tmp_path / "m.onnx", shape=["n", 3, "h", "w"], metadata={"mean": "0.5,0.5,0.5", "std": "[0.25]"})
    with pytest.raises(InputError, match=r"pictures of any size: say which .* \?size=112"):
        load(f"onnx:{path}")
    encoder = load(f"onnx:{path}?size=16&resize=20")
    assert (encoder.preprocessing.mean, encoder.preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (encoder.preprocessing.size, encoder.preprocessing.resize) == (16, 20)
    np.testing.assert_allclose(encoder.encode(PIXELS), (MEANS / 255 - 0.5) / 0.25, rtol=1e-4, atol=1e-5)
    other = load(f"onnx:{path}?size=16&mean=127.5&std=128/128/128&scale=1")
    np.testing.assert_allclose(other.encode(PIXELS), (MEANS - 127.5) / 128, rtol=1e-4, atol=1e-5)
    assert other.weights == encoder.weights and other.preprocessing.record() != encoder.preprocessing.record()


def test_a_model_that_takes_bytes_normalises_by_itself(tmp_path):
    path = model(tmp_path / "b.onnx", shape=["n", 3, 16, 16], kind=onnx.TensorProto.UINT8, metadata={"std": "0.25"})
    np.testing.assert_allclose(load(f"onnx:{path}").encode(PIXELS), MEANS, rtol=1e-5)
    with pytest.raises(InputError, match="takes bytes, which it normalises by itself: leave out mean"):
        load(f"onnx:{path}?mean=0.5")


def test_the_embedding_among_several_outputs(tmp_path):
    path = model(tmp_path / "two.onnx", shape=["n", 3, 16, 16], outputs=("logits", "embedding"), keepdims=1)
    with pytest.raises(InputError, match=r"several outputs.*as \?output=logits"):
        load(f"onnx:{path}")
    encoder = load(f"onnx:{path}?output=embedding")
    assert encoder.tap == "embedding" and encoder.encode(PIXELS).shape == (7, 3)
    with pytest.raises(InputError, match="has no output 'pool'"):
        load(f"onnx:{path}?output=pool")


@pytest.mark.parametrize("query, message", [
    ("?sise=3", "unknown option 'sise'"), ("?size=", "unknown option 'size'"), ("?size=big", "size=big"),
    ("?mean=1,2", "mean=1,2 of"), ("?std=0", "std=0"), ("?interpolation=cubic", "interpolation=cubic of"),
    ("?size=17", "does not run on pictures of side 17"),
])
def test_options_that_make_no_sense(tmp_path, query, message):
    with pytest.raises(InputError, match=message):
        load(f"onnx:{model(tmp_path / 't.onnx', shape=[1, 3, 16, 16])}{query}")


def test_files_that_are_no_encoder(tmp_path):
    (tmp_path / "page.onnx").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "junk.onnx").write_bytes(b"\x08\x07 nothing to run")
    flat = model(tmp_path / "map.onnx", shape=["n", 3, 16, 16], axes=(3,))
    for name, message in (("page.onnx", "is a web page"), ("junk.onnx", "is not an ONNX model"),
                          ("none.onnx", "there is no such file"), (flat.name, "not one vector a face")):
        with pytest.raises(InputError, match=message):
            load(f"onnx:{tmp_path / name}")
    with pytest.raises(InputError, match="brings its own weights"):
        load(f"onnx:{flat}", weights="random:0")
    with pytest.raises(InputError, match="precision it was exported with"):
        load(f"onnx:{flat}", precision="bf16")


@pytest.mark.parametrize("inner", [1, 2, 8])
def test_a_batch_that_is_fixed_inside_the_graph(tmp_path, inner):
    """The input says any number, a Reshape another: it is found, and faces are fed so many at a time."""
    nodes = [("ReduceMean", "pixels axes", "mean", {"keepdims": 0}), ("Reshape", "mean shape", "y", None)]
    path = save_onnx(tmp_path / "b.onnx", nodes, {"axes": np.array((2, 3)), "shape": np.array([inner, 3])},
                     outputs=("y",), shape=["n", 3, 16, 16])
    np.testing.assert_allclose(load(f"onnx:{path}").encode(PIXELS), (MEANS / 255 - MEAN) / STD, rtol=1e-4)


@pytest.mark.parametrize("node, more, says", [
    (("Identity", "pixels", "y", None), {"shape": ["n", 4, 16, 16]}, "pictures of 4 channels; 3"),
    (("Identity", "pixels", "y", None), {"shape": [3, 16, 16]}, r"export it for one batch of pictures, \(batch, 3, "),
    (("Cast", "pixels", "y", {"to": 1}), {"shape": ["n", 3, 16, 16], "kind": onnx.TensorProto.INT64},
     r"takes pixels \(int64\) .* export it for one batch of pictures, .* of float32, float16, uint8"),
    (("ArgMax", "pixels", "y", {"axis": 1}), {"shape": ["n", 3, 16, 16]}, "y holds int64, class numbers perhaps"),
    (("Reshape", "pixels five", "y", None), {"shape": ["n", 3, 16, 16]},
     "does not run on pictures of side 16: export it for any number of pictures"),
    (("Foo", "pixels", "y", None), {"shape": ["n", 3, 16, 16]}, "can load: .*Foo")])
def test_what_a_model_takes_or_gives_that_is_no_encoder(tmp_path, capfd, node, more, says):
    path = save_onnx(tmp_path / "o.onnx", [node], {"five": np.array([5, 7])}, outputs=("y",), **more)
    if node[0] == "ArgMax":
        made = onnx.load(path)
        made.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        onnx.save(made, path)
    with pytest.raises(InputError, match=says) as caught:
        load(f"onnx:{path}")
    assert "onnxruntime_src" not in str(caught.value) and not capfd.readouterr().err


def test_data_files_are_found_at_any_depth_and_length_of_name(tmp_path):
    """As `onnx` writes them: a name of over 127 bytes, a tensor inside of a node of a subgraph, several files."""
    names = ["x" * 140 + ".bin", "b.bin", "deep.bin"]
    path = model(tmp_path / "a.onnx", shape=["n", 3, 16, 16])
    loaded = onnx.load(path)
    inner = onnx.numpy_helper.from_array(np.ones(400, np.float32), "inner")
    branch = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=inner)], "branch", [],
                                    [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [400])])
    condition = onnx.numpy_helper.from_array(np.array(True), "condition")
    loaded.graph.initializer.append(condition)
    loaded.graph.node.append(onnx.helper.make_node("If", ["condition"], ["unused"], then_branch=branch,
                                                   else_branch=branch))
    tensors = [loaded.graph.initializer[1], loaded.graph.node[-1].attribute[0].g.node[0].attribute[0].t,
               loaded.graph.node[-1].attribute[1].g.node[0].attribute[0].t]
    for tensor, name in zip(tensors, names, strict=True):
        (tmp_path / name).write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, location=name)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    loaded.doc_string = "\x0a\x08location\x12\x0b/etc/passwd"
    (tmp_path / "e.onnx").write_bytes(loaded.SerializeToString())
    assert [file.name for file in external_files(tmp_path / "e.onnx", read_model(tmp_path / "e.onnx"))] == sorted(names)
    weights = load(f"onnx:{tmp_path / 'e.onnx'}").weights
    (tmp_path / names[0]).write_bytes(np.full(300, 1e-6, np.float32).tobytes())
    assert load(f"onnx:{tmp_path / 'e.onnx'}").weights != weights
    (tmp_path / names[0]).write_bytes(np.zeros(300, np.float32).tobytes())
    assert load(f"onnx:{tmp_path / 'e.onnx'}").weights == weights  # of that content, data files included
    (tmp_path / names[0]).unlink()
    with pytest.raises(InputError, match="which is not there: put that file beside it"):
        load(f"onnx:{tmp_path / 'e.onnx'}")


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "c:\\x", ".", "link.bin"])
def test_data_outside_of_the_models_folder_is_refused_unopened(tmp_path, name):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1200))
    (tmp_path / "inside" / "link.bin").symlink_to(tmp_path / "secret.bin")
    loaded = onnx.load(model(tmp_path / "a.onnx", shape=["n", 3, 16, 16]))
    onnx.external_data_helper.set_external_data(loaded.graph.initializer[1], location=name)
    loaded.graph.initializer[1].data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "inside" / "e.onnx").write_bytes(loaded.SerializeToString())
    with pytest.raises(InputError, match=r"refused|not there"):
        load(f"onnx:{tmp_path / 'inside' / 'e.onnx'}")


def test_an_embedding_too_long_for_a_feature_file_is_refused_before_anything_is_computed(tmp_path):
    path = save_onnx(tmp_path / "w.onnx", [("Flatten", "pixels", "flat", None)], {}, shape=["n", 3, 592, 592],
                     outputs=("flat",))
    with pytest.raises(InputError, match="gives 1051392 numbers a face; 1048576 is the most"):
        load(f"onnx:{path}")


def test_the_command_line_takes_their_options_with_commas(cli, drawn, tmp_path):
    from twofold.cache.store import Store

    path = model(tmp_path / "tiny.onnx", shape=["n", 3, 16, 16])
    done = cli("extract", drawn.manifest, "--root", drawn.root, "--store", tmp_path / "s", "--device", "cpu",
               "--backbones", f"timm:test_vit,onnx:{path}?mean=0.5,0.5,0.5&std=1,1,1",
               "--weights", "timm:test_vit=random:0")
    assert done.returncode == 0, done.stderr
    file = Store(tmp_path / "s").find("onnx:tiny")
    assert file.dim == 3 and file.recipe.preprocessing["mean"] == [0.5, 0.5, 0.5] and file.recipe.tap == "mean"
    assert str(tmp_path) not in file.recipe.canonical() and Store(tmp_path / "s").find("timm:test_vit").rows == 70


def test_a_real_model_fixed_at_one_face_a_time(real):
    """Against onnxruntime fed by hand, face by face."""
    files = sorted((real / "faces_ferplus/images").glob("*.png"))[:5]
    images = [Image.open(file).convert("RGB") for file in files]
    encoder = load(f"onnx:{real / MOBILEFACENET}")
    pictures = np.stack([encoder.preprocessing.prepare(image) for image in images])
    session = onnxruntime.InferenceSession(real / MOBILEFACENET)
    expected = []
    for image in images:
        pixels = np.asarray(image.resize((112, 112), Image.Resampling.BILINEAR), np.float32) / 255
        fed = ((pixels - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
        expected.append(session.run(None, {session.get_inputs()[0].name: fed})[0][0])
    assert encoder.dim == 128 and encoder.precision == "fp32" and not encoder.untrained
    np.testing.assert_allclose(encoder.encode(pictures), expected, rtol=1e-3, atol=1e-4)


def test_without_onnxruntime_the_install_line_is_given(real, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnx onnxruntime"):
        load(f"onnx:{real / MOBILEFACENET}")


@pytest.mark.parametrize("shape", [[1, 3], [1, -1]])
def test_a_batch_of_one_inside_of_the_graph_is_run_one_by_one(tmp_path, shape):
    """The input says any batch; a Reshape holds one (exports of MXNet, models of the zoo)."""
    nodes = [("GlobalAveragePool", "pixels", "pool", None), ("Reshape", "pool shape", "flat", None)]
    path = save_onnx(tmp_path / "b.onnx", nodes, {"shape": np.array(shape, np.int64)}, shape=["None", 3, 16, 16],
                     outputs=("flat",))
    np.testing.assert_allclose(load(f"onnx:{path}?mean=0&std=1").encode(PIXELS), MEANS / 255, rtol=1e-4)


@pytest.mark.parametrize("layout, axes", [([1, 16, 16], (2, 3)), ([16, 16, 1], (1, 2))])
def test_grey_inputs_get_the_luma_and_must_say_their_normalisation(tmp_path, layout, axes):
    path = model(tmp_path / "grey.onnx", shape=["n", *layout], axes=axes)
    with pytest.raises(InputError, match="does not say how they are normalised"):
        load(f"onnx:{path}")
    values = load(f"onnx:{path}?mean=0&std=1&scale=1").encode(PIXELS)
    np.testing.assert_allclose(values, (MEANS * [0.299, 0.587, 0.114]).sum(1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("kind", ["Gemm", "transposed Gemm", "MatMul", "MatMul and softmax", "Gemm in a data file"])
def test_a_model_that_ends_in_logits_gives_their_input_and_the_classifier(tmp_path, kind):
    draw = np.random.default_rng(0)
    wide, weight, bias = (draw.standard_normal(shape).astype(np.float32) for shape in ((3, 12), (12, 7), (7,)))
    nodes = [("ReduceMean", "pixels axes", "mean", {"keepdims": 0}), ("MatMul", "mean wide", "features", None)]
    if "Gemm" in kind:
        nodes += [("Gemm", "features weight bias", "logits", {"transB": int("transposed" in kind)})]
    else:
        nodes += [("MatMul", "features weight", "product", None), ("Add", "product bias", "logits", None)]
    nodes += [("Softmax", "logits", "probabilities", None)] if "softmax" in kind else []
    arrays = {"axes": np.array([2, 3], np.int64), "wide": wide, "bias": bias,
              "weight": weight.T.copy() if "transposed" in kind else weight}
    path = save_onnx(tmp_path / "expressions.onnx", nodes, arrays, shape=["n", 3, 16, 16], outputs=(nodes[-1][2],),
                save_as_external_data="data file" in kind, location="expressions.data", size_threshold=100)
    encoder = load(f"onnx:{path}?mean=0&std=1", classes=tuple("abcdefg"))
    np.testing.assert_allclose(encoder.encode(PIXELS), MEANS / 255 @ wide, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(encoder.classifier.weight, weight)
    np.testing.assert_array_equal(encoder.classifier.bias, bias)
    operator = "Gemm" if "Gemm" in kind else "MatMul"
    assert (encoder.tap, encoder.architecture) == ("features", f"onnx, without its last {operator}")
    again, unnamed = load(f"onnx:{path}?mean=0&std=1&output=features"), load(f"onnx:{path}?mean=0&std=1")
    assert (again.architecture, again.tap, unnamed.unnamed_classes) == (encoder.architecture, encoder.tap, 7)
    if "softmax" not in kind:
        assert load(f"onnx:{path}?mean=0&std=1&output=logits").dim == 7  # asked for
    if "data file" in kind:
        (tmp_path / "expressions.data").write_bytes(b"cut off")
        with pytest.raises(InputError, match="'weight' is cut off or damaged"):
            load(f"onnx:{path}?mean=0&std=1")


@pytest.mark.parametrize("last", ["Gemm", "MatMul"])
def test_of_two_layers_that_are_added_none_is_the_classifier(tmp_path, last):
    nodes = [("Flatten", "pixels", "flat", None), (last, "flat weight", "one", None), ("Tanh", "flat", "tanh", None),
             ("MatMul", "tanh weight", "two", None), ("Add", "one two" if last == "MatMul" else "one bias", "y", None)]
    arrays = {"weight": np.ones((12, 3), np.float32), "bias": np.ones(3, np.float32)}
    path = save_onnx(tmp_path / "two.onnx", nodes, arrays, shape=["n", 3, 2, 2], outputs=("y",))
    encoder = load(f"onnx:{path}")
    assert (encoder.tap, encoder.dim, encoder.unnamed_classes) == ("y", 3, 0)


def test_a_classifier_of_timm_exported_whole_gives_its_own_embedding(tmp_path):
    pytest.importorskip("onnxscript")
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7).eval()
    path, pixels = tmp_path / "net.onnx", torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    images = pixels.permute(0, 3, 1, 2) / 255
    torch.onnx.export(network, (images,), path, dynamo=True, dynamic_shapes=({0: "n"},), verbose=False)
    encoder = load(f"onnx:{path}?mean=0&std=1", classes=tuple("abcdefg"))
    with torch.inference_mode():
        embedding = network.forward_head(network.forward_features(images), pre_logits=True)
        logits = network(images)
    values, layer = encoder.encode(pixels), encoder.classifier
    np.testing.assert_allclose(values, embedding, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(values @ layer.weight + layer.bias, logits, rtol=1e-3, atol=1e-5)
