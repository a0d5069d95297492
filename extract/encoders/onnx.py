"""Backbones `onnx:PATH`: encoders that were exported to ONNX, through onnxruntime (optional)."""

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from twofold.cache.user_block import MAX_DIM
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.classifier import MAX_CLASSES, LinearLayer, checkpoint_classifier
from twofold.extract.encoders.encoder import FIRST_TRY, BatchLimit, Encoder
from twofold.extract.encoders.preprocessing import AS_IT_IS, Preprocessing, apply_options, join_name, split_name
from twofold.extract.weights.read import Checkpoint, file_sha256, refuse_other_files

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
LUMA = (0.299, 0.587, 0.114)  #: ITU-R 601, as Pillow turns RGB into grey
INNER_BATCHES = (2, 4, 8, 16, 32, 64)  #: tried where a model says that it takes any, and does not take one
MAX_BYTES = 4 << 30  #: of a model and its data files


class OnnxNetwork:
    """A session as a function: (B, 3, S, S) float32 on the CPU to (B, D).

    batch: the number of images that the model is fixed at, 0 for any; grey: it takes one channel, the luma; side: of
    its input, 0 for any. Small fixed batches run side by side, one thread each, which on a CPU is faster than all
    threads on one of them.
    """

    def __init__(self, path: Path, session: Any, output: str | None) -> None:
        """output: the name of the embedding. Raises InputError for a model that takes no pictures, or whose outputs do
        not have it."""
        self.session, inputs = session, session.get_inputs()
        named = ", ".join(f"{part.name} {part.type.removeprefix('tensor')} {list(part.shape)}" for part in inputs)
        if len(inputs) != 1:
            raise InputError(f"{path} has {len(inputs)} inputs ({named}): export it with one, a batch of pictures")
        if len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
            raise InputError(f"{path} takes {named}: export it for one batch of pictures, "
                             f"(batch, 3, side, side) of {', '.join(np.dtype(kind).name for kind in TYPES.values())}")
        batch, *shape = inputs[0].shape
        self.channels_last = shape[2] in (1, 3) and shape[0] not in (1, 3)
        side, channels = shape[0 if self.channels_last else 1], shape[2 if self.channels_last else 0]
        if isinstance(channels, int) and channels not in (1, 3):
            raise InputError(f"{path} takes {named}: pictures of {channels} channels; 3 (RGB) or 1 (grey) are read")
        self.batch, self.side = (value if isinstance(value, int) else 0 for value in (batch, side))
        self.grey = channels == 1
        self.input, self.type = inputs[0].name, TYPES[inputs[0].type]
        self.pool = ThreadPoolExecutor(torch.get_num_threads(), "onnx")
        names = [part.name for part in session.get_outputs()]
        if output is not None and output not in names:
            raise InputError(f"{path} has no output {output!r}: it has {', '.join(names)}")
        if output is None and len(names) > 1:
            vectors = [part.name for part in session.get_outputs() if all(side == 1 for side in part.shape[2:])]
            raise InputError(f"{path} has several outputs: say which is the embedding, as "
                             f"?output={(vectors or names)[0]} (it has {', '.join(names)})")
        self.output = output or names[0]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.grey:
            images = (images * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        array = (images.permute(0, 2, 3, 1) if self.channels_last else images).contiguous().numpy()
        step = self.batch or len(array)
        pieces = self.pool.map(self._run, (array[start:start + step] for start in range(0, len(array), step)))
        return torch.from_numpy(np.concatenate(list(pieces)))

    def _run(self, piece: np.ndarray) -> np.ndarray:
        fed = piece.astype(self.type)
        if len(piece) < self.batch:
            fed = np.concatenate([fed, np.zeros((self.batch - len(piece), *fed.shape[1:]), fed.dtype)])
        (values,) = self.session.run([self.output], {self.input: fed})
        if values.dtype.kind != "f":
            raise InputError(f"its output {self.output} holds {values.dtype}, class numbers perhaps, and no embedding: "
                             "say another with ?output=NAME, or export it with one")
        rows, *rest = values.shape if values.ndim > 1 else (1, *values.shape)
        if rows != len(fed) or any(side > 1 for side in rest[1:]):
            raise InputError(f"its output {self.output} has shape {values.shape} for {len(fed)} pictures, not one "
                             "vector a face: say another with ?output=NAME, or export it with one")
        return values.reshape(rows, -1).astype(np.float32)[:len(piece)]


def load_onnx(name: str, *, device: torch.device, precision: str, batch_size: int, classes: tuple[str, ...] = ()
              ) -> Encoder:
    """The encoder of `onnx:PATH?size=112&mean=0.5,0.5,0.5&std=...&output=NAME`.

    What the options do not say is read from the model: the size and layout of its input, `mean` and `std` in its
    metadata (ImageNet's otherwise), its only output. Where that is the logits of a classifier, the embedding is the
    input of its last Gemm or MatMul, which becomes the classifier (classes: its order). Weights are identified by the
    content of the file and of the data files beside it. Raises InputError if onnx or onnxruntime is missing, or the
    model is broken or needs an option.
    """
    plain, options = split_name(name, further=("output",))
    path = Path(plain.removeprefix("onnx:"))
    if precision not in ("auto", "fp32"):
        raise InputError(f"onnx:{path.name} runs in the precision it was exported with: use --precision auto or fp32")
    model = read_model(path)
    digest = _content_digest(path, external_files(path, model))
    last = split_classifier(path, model)
    if last and options.get("output", last.embedding) != last.embedding:  # another output was asked for
        last = None
    session = _session(path, device, model.SerializeToString() if last else str(path))
    network = OnnxNetwork(path, session, options.get("output"))
    how = _preprocessing(path, network, options)
    noise = torch.rand((2, 3, how.size, how.size), generator=torch.Generator().manual_seed(0))
    single = _run_twice(path, network, noise[:1])
    dim = single[0].shape[1]
    try:
        batched = network(noise)[:1]
    except Exception:  # the input says any batch, and the graph holds a batch of one
        network.batch, batched = 1, single[0]
    for other, cause in ((single[1], "comes out otherwise each time"), (batched, "depends on the others in its batch")):
        if (other - single[0]).abs().max() > 0.05 * single[0].abs().max():  # not for NaN, which fails sample by sample
            raise InputError(f"{path}: what it gives for a picture {cause}; export it in evaluation mode")
    if dim > MAX_DIM:
        raise InputError(f"{path} gives {dim} numbers a face; {MAX_DIM} is the most that can be stored")
    classifier, unnamed = (None, 0) if last is None else checkpoint_classifier(
        f"onnx:{path}", last.layer, Checkpoint(path=path, format="onnx", tensors={}), classes=classes)
    return Encoder(
        name=f"onnx:{path.stem}", architecture=f"onnx{last.text if last else ''}", weights=digest,
        tap=network.output, dim=dim, preprocessing=how, device=torch.device("cpu"), network=network,
        precision="fp16" if network.type is np.float16 else "fp32", limit=BatchLimit(batch_size or FIRST_TRY["cpu"]),
        classifier=classifier, unnamed_classes=unnamed)


def onnx_name(path: Path, how: Mapping[str, Any], **further: str) -> str:
    """`onnx:PATH` with the options that give this preprocessing, as a recipe has it, and further ones."""
    options = {"size": how["size"][0], "resize": how["resize"], "rule": how["resize_rule"],
               "interpolation": how["interpolation"],
               "mean": "/".join(map(repr, how["mean"])), "std": "/".join(map(repr, how["std"])),
               "scale": repr(how["scale"])} | further
    return join_name(f"onnx:{path}", options)


def _run_twice(path: Path, network: OnnxNetwork, image: torch.Tensor) -> list[torch.Tensor]:
    """What the network gives for one image, twice. Its batch becomes the size that its graph holds, where that is not
    the input's. Raises InputError where it runs with none."""
    failure: Exception | None = None
    for batch in (network.batch,) if network.batch else (0, *INNER_BATCHES):
        network.batch = batch
        try:
            return [network(image), network(image)]
        except Exception as error:  # onnxruntime's own kinds
            failure = failure or error
    assert failure is not None
    if isinstance(failure, InputError):
        raise InputError(f"{path}: {failure}") from None
    raise InputError(f"{path} does not run on pictures of side {image.shape[-1]}: export it for any number of pictures "
                     f"(dynamic_axes), or choose another ?size=; onnxruntime says: {_reason(failure)}") from None


def _reason(error: Exception) -> str:
    """What an error of onnxruntime says, without its codes and the places in its own sources."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src\S+|onnxruntime::\S+\([^)]*\)", "", str(error))
    return first_line(" ".join(text.split()))


# -------------------------------------------------------------------------------------------------------- files
def read_model(path: Path) -> Any:
    """The model's graph, its external data unread. Raises InputError for what is none, or too large."""
    for package in ("onnxruntime", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"onnx:{path} needs {package}: install it with `pip install onnx onnxruntime`")
    import onnx

    if not path.is_file():
        raise InputError(f"onnx:{path}: there is no such file")
    with path.open("rb") as stream:
        refuse_other_files(path, stream.read(512), path.stat().st_size)
    _require_size([path])
    try:
        model = onnx.load_model(path, load_external_data=False)
        if model.graph.node:
            return model
        reason = "its graph is empty"
    except Exception as error:  # protobuf's own kind, which is in no public module
        reason = first_line(error)
    raise InputError(f"{path} is not an ONNX model that can be read: {reason}")


def _require_size(files: list[Path]) -> None:
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise InputError(f"{files[0]} and its data have more than {MAX_BYTES >> 20} MB, the most that is read")


def external_files(path: Path, model: Any) -> list[Path]:
    """The files beside a model that hold its tensors, in order of their names.

    Raises InputError for a file that is missing or not in the model's folder; nothing outside of it is opened.
    """
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    names = sorted({ExternalDataInfo(tensor).location for tensor in _get_all_tensors(model)
                    if uses_external_data(tensor)})
    for name in names:
        plain, file = PurePosixPath(name), path.parent / name.replace("\0", "")
        if plain.is_absolute() or ".." in plain.parts or "\\" in name or "\0" in name or not plain.parts:
            raise InputError(f"{path} keeps numbers in {name[:200]!r}, which is not in its own folder: refused")
        if not file.is_file() or not file.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(f"{path} keeps numbers in {name[:200]!r}, which is not there: put that file beside it")
    files = [path.parent / name for name in names]
    _require_size([path, *files])
    return files


def _content_digest(path: Path, data: list[Path]) -> str:
    """`sha256:<hex>` of the model and of its data files."""
    with path.open("rb") as stream:
        total = hashlib.file_digest(stream, "sha256")
    for file in data:
        total.update(bytes.fromhex(file_sha256(file)))
    return f"sha256:{total.hexdigest()}"


# --------------------------------------------------------------------------------------------------- classifier
@dataclass(frozen=True)
class LastLayer:
    """A classifier at the end of a graph. embedding: name of the tensor that it reads; text: for the recipe."""

    embedding: str
    layer: LinearLayer
    text: str


def split_classifier(path: Path, model: Any) -> LastLayer | None:
    """Cut, in place, a classifier of at most MAX_CLASSES classes off a graph with one output; None where there is none.

    A softmax behind it, and a bias that is added to a MatMul, go with it. Its own tensors may lie in data files beside
    the model, all of which `external_files` has seen.
    """
    from onnx import helper, numpy_helper

    def array(name: str) -> np.ndarray:
        try:
            return numpy_helper.to_array(constants[name], str(path.parent)).astype(np.float32)
        except Exception as error:  # onnx's own kinds: the tensor says another size than it has
            raise InputError(f"{path}: tensor {name!r} is cut off or damaged: {first_line(error)}") from None

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    node = producers.get(model.graph.output[0].name) if len(model.graph.output) == 1 else None
    if node is not None and node.op_type in ("Softmax", "LogSoftmax", "Identity"):
        node = producers.get(node.input[0])
    bias, layers = "", ("Gemm", "MatMul")
    if node is not None and node.op_type == "Add":  # of a bias, not of two branches nor behind a Gemm with its own
        bias, layers = next((name for name in node.input if name in constants), ""), ("MatMul",)
        node = next((producers[name] for name in node.input if bias and name in producers), None)
    if node is None or node.op_type not in layers or node.input[1] not in constants:
        return None
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    bias = node.input[2] if len(node.input) > 2 else bias
    sides = list(constants[node.input[1]].dims)[::-1 if settings.get("transB") else 1]
    if len(sides) != 2 or not sides[1] <= min(MAX_CLASSES, sides[0] - 1) or settings.get("transA") or \
            {settings.get("alpha", 1.0), settings.get("beta", 1.0)} != {1.0}:
        return None
    offset = array(bias).reshape(-1) if bias in constants else np.zeros(sides[1], np.float32)
    if len(offset) != sides[1]:
        return None
    weight = array(node.input[1])
    output = helper.make_tensor_value_info(node.input[0], model.graph.output[0].type.tensor_type.elem_type, None)
    del model.graph.output[:]
    model.graph.output.append(output)
    return LastLayer(node.input[0], (weight.T if settings.get("transB") else weight, offset),
                     f", without its last {node.op_type}")


# ------------------------------------------------------------------------------------------------------ session
def _session(path: Path, device: torch.device, content: str | bytes) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what fails is said by us
    for pool in ("intra_op", "inter_op"):  # idle threads leave the cores alone
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    settings.intra_op_num_threads = torch.get_num_threads()
    cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    cards = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if cuda else []
    try:
        session = onnxruntime.InferenceSession(content, settings, providers=[*cards, "CPUExecutionProvider"])
        if isinstance(session.get_inputs()[0].shape[0], int) and settings.intra_op_num_threads > 1:
            settings.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(content, settings, providers=[*cards, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load: {_reason(error)}") from None
    return session


def _preprocessing(path: Path, network: OnnxNetwork, options: dict[str, str]) -> Preprocessing:
    """What the options say, else the model's metadata; a model that takes bytes normalises by itself."""
    written = network.session.get_modelmeta().custom_metadata_map
    raw = network.type is np.uint8
    if "size" not in options and not network.side:
        raise InputError(f"{path} takes pictures of any size: say which it was trained with, as ?size=112")
    if network.grey and not raw and "mean" not in {*options, *written}:
        raise InputError(f"{path} takes grey pictures and does not say how they are normalised: say it, as "
                         "?mean=0.5&std=0.5, or ?mean=0&std=1&scale=1 for 0 to 255")
    side: Any = {"size": network.side or 1, "resize": network.side or 1}
    how = Preprocessing(**side, **AS_IT_IS, scale=1.0) if raw else Preprocessing(**side)
    stated = {key: written[key] for key in ("mean", "std") if written.get(key) and not raw}
    how = apply_options(how, stated | options, name=f"onnx:{path}")
    if raw and how != replace(how, **AS_IT_IS, scale=1.0):
        raise InputError(f"{path} takes bytes, which it normalises by itself: leave out mean, std and scale")
    return how
