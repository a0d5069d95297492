"""Any encoder that was exported to ONNX, through onnxruntime (optional)."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.cache.layout import MAX_DIM
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.encoder import FIRST_TRY, BatchLimit, Encoder
from twofold.extract.encoders.onnx.child import TYPES
from twofold.extract.encoders.onnx.files import data_files, digest_of
from twofold.extract.encoders.onnx.trial import try_model
from twofold.extract.encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from twofold.extract.encoders.preprocessing_options import colour, split_name, with_options
from twofold.extract.weights.read import refuse_other_files


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """A session as a function: (B, 3, S, S) float32 on the CPU to (B, D).

    batch: the number of pictures that the model is fixed at, 0 for any. Small fixed batches run side by side, one
    thread each, which on a CPU is faster than all threads on one of them.
    """

    session: Any
    output: str
    batch: int
    channels_last: bool
    type: np.dtype
    pool: ThreadPoolExecutor

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        array = self._arranged(pictures)
        step = self.batch or len(array)
        pieces = self.pool.map(self._run, (array[start:start + step] for start in range(0, len(array), step)))
        return torch.from_numpy(np.concatenate(list(pieces)))

    def _arranged(self, pictures: torch.Tensor) -> np.ndarray:
        return (pictures.permute(0, 2, 3, 1) if self.channels_last else pictures).contiguous().numpy()

    def _run(self, piece: np.ndarray) -> np.ndarray:
        fed = piece.astype(self.type)
        if len(piece) < self.batch:
            fed = np.concatenate([fed, np.zeros((self.batch - len(piece), *fed.shape[1:]), fed.dtype)])
        (values,) = self.session.run([self.output], {self.session.get_inputs()[0].name: fed})
        rows, *rest = values.shape if values.ndim > 1 else (1, *values.shape)
        if rows != len(fed) or any(side > 1 for side in rest[1:]):
            raise InputError(f"output {self.output} of the ONNX model has shape {values.shape}, not one vector a face")
        return values.reshape(rows, -1).astype(np.float32)[:len(piece)]


def load_onnx(name: str, *, device: torch.device, precision: str, batch_size: int) -> Encoder:
    """The encoder of `onnx:PATH?size=112&mean=0.5,0.5,0.5&std=...&output=NAME`.

    What the options do not say is read from the model: the size and layout of its input, `mean` and `std` in its
    metadata (ImageNet's otherwise), its only output. Its weights are named by the content of the file and of the
    data files beside it. Raises InputError if onnxruntime is missing, or the model is broken or needs an option.
    """
    path, options = parse(name)
    if precision not in ("auto", "fp32"):
        raise InputError(f"onnx:{path.name} runs in the precision it was exported with: use --precision auto or fp32")
    _require_model(path)
    files = data_files(path)
    side = with_options(Preprocessing(size=1, resize=1), options, name=name).size if "size" in options else 0
    try_model(path, bytes=sum(file.stat().st_size for file in (path, *files)), size=side,
              output=options.get("output", ""))
    digest = digest_of(path)
    session = _session(path, device)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
        raise InputError(f"{path} wants {[(part.name, part.type, part.shape) for part in inputs]}: one batch of "
                         "pictures is supported")
    batch, *shape = inputs[0].shape
    network = OnnxNetwork(
        session=session, output=_output(path, session, options.get("output")),
        batch=batch if isinstance(batch, int) else 0, channels_last=shape[2] == 3 and shape[0] != 3,
        type=TYPES[inputs[0].type], pool=ThreadPoolExecutor(torch.get_num_threads(), "onnx"),
    )
    how = _preprocessing(path, session, shape[1] if network.channels_last else shape[2], options)
    try:
        dim = network(torch.zeros((1, 3, how.size, how.size))).shape[1]
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(f"{path} does not run on pictures of side {how.size}: {first_line(error)}") from None
    if dim > MAX_DIM:
        raise InputError(f"{path} gives {dim} numbers a face; {MAX_DIM} is the most that can be stored: take another "
                         "output with ?output=NAME")
    return Encoder(
        name=f"onnx:{path.stem}", architecture="onnx", weights=digest, tap=network.output, dim=dim,
        preprocessing=how, precision="fp16" if network.type is np.float16 else "fp32", device=torch.device("cpu"),
        network=network, limit=BatchLimit(batch_size or FIRST_TRY["cpu"]),
    )


def parse(name: str) -> tuple[Path, dict[str, str]]:
    """`onnx:PATH?key=value&...` as path and options. Raises InputError for an option that is not known."""
    plain, options = split_name(name, further=("output",))
    return Path(plain.removeprefix("onnx:")), options


def _require_model(path: Path) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError(f"onnx:{path} needs onnxruntime: install it with `pip install onnxruntime`")
    if not path.is_file():
        raise InputError(f"onnx:{path}: there is no such file")
    with path.open("rb") as stream:
        refuse_other_files(path, stream.read(512), path.stat().st_size)


def _session(path: Path, device: torch.device) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    for pool in ("intra_op", "inter_op"):  # idle threads leave the cores alone
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    settings.intra_op_num_threads = torch.get_num_threads()
    cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    cards = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if cuda else []
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=[*cards, "CPUExecutionProvider"])
        if isinstance(session.get_inputs()[0].shape[0], int) and settings.intra_op_num_threads > 1:
            settings.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(path, settings, providers=[*cards, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load: {first_line(error)}") from None
    return session


def _output(path: Path, session: Any, name: str | None) -> str:
    names = [part.name for part in session.get_outputs()]
    if name is not None and name not in names:
        raise InputError(f"{path} has no output {name!r}: it has {', '.join(names)}")
    if name is None and len(names) > 1:
        raise InputError(f"{path} has several outputs: say which is the embedding, as ?output={names[0]} "
                         f"(it has {', '.join(names)})")
    return name or names[0]


def _preprocessing(path: Path, session: Any, side: int | str | None, options: dict[str, str]) -> Preprocessing:
    written = session.get_modelmeta().custom_metadata_map
    raw = session.get_inputs()[0].type == "tensor(uint8)"  # it normalises by itself
    if "size" not in options and not isinstance(side, int):
        raise InputError(f"{path} takes pictures of any size: say which it was trained with, as ?size=112")
    name, size = f"onnx:{path}", side if isinstance(side, int) else 1
    mean, std = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) if raw else (IMAGENET_MEAN, IMAGENET_STD)
    how = Preprocessing(
        size=size, resize=size, scale=1.0 if raw else 1 / 255,
        mean=colour(name, "mean", written["mean"]) if written.get("mean") else mean,
        std=colour(name, "std", written["std"]) if written.get("std") else std,
    )
    return with_options(how, options, name=name)
