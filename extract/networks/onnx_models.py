"""Any encoder that was exported to ONNX, through onnxruntime (optional)."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.data.errors import InputError
from twofold.extract.networks.encoder import FIRST_TRY, BatchLimit, Encoder
from twofold.extract.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, Preprocessing
from twofold.extract.weights.read import refuse_other_files

OPTIONS = ("size", "resize", "interpolation", "mean", "std", "scale", "output")
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


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
        array = (pictures.permute(0, 2, 3, 1) if self.channels_last else pictures).contiguous().numpy()
        step = self.batch or len(array)
        pieces = self.pool.map(self._run, (array[start:start + step] for start in range(0, len(array), step)))
        return torch.from_numpy(np.concatenate(list(pieces)))

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
    session = _session(path, device)
    given = session.get_inputs()
    if len(given) != 1 or len(given[0].shape) != 4 or given[0].type not in TYPES:
        raise InputError(f"{path} wants {[(part.name, part.type, part.shape) for part in given]}: one batch of "
                         "pictures is supported")
    batch, *shape = given[0].shape
    network = OnnxNetwork(
        session=session, output=_output(path, session, options.get("output")),
        batch=batch if isinstance(batch, int) else 0, channels_last=shape[2] == 3 and shape[0] != 3,
        type=TYPES[given[0].type], pool=ThreadPoolExecutor(torch.get_num_threads(), "onnx"),
    )
    how = _preprocessing(path, session, shape[1] if network.channels_last else shape[2], options)
    try:
        dim = network(torch.zeros((1, 3, how.size, how.size))).shape[1]
    except InputError:
        raise
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(f"{path} does not run on pictures of side {how.size}: {_first_line(error)}") from None
    return Encoder(
        name=f"onnx:{path.stem}", architecture="onnx", weights=_digest(path), tap=network.output, dim=dim,
        preprocessing=how, precision="fp16" if network.type is np.float16 else "fp32", device=torch.device("cpu"),
        network=network, limit=BatchLimit(batch_size or FIRST_TRY["cpu"]),
    )


def parse(name: str) -> tuple[Path, dict[str, str]]:
    """`onnx:PATH?key=value&...` as path and options. Raises InputError for an option that is not known."""
    text, _, query = name.removeprefix("onnx:").partition("?")
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    for key, value in options.items():
        if key not in OPTIONS or not value:
            raise InputError(f"unknown option {key!r} of onnx:{text}: choose from {', '.join(OPTIONS)}, as ?size=112")
    return Path(text), options


def _session(path: Path, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"onnx:{path} needs onnxruntime: install it with `pip install onnxruntime`") from None
    if not path.is_file():
        raise InputError(f"onnx:{path}: there is no such file")
    with path.open("rb") as stream:
        refuse_other_files(path, stream.read(512), path.stat().st_size)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    for pool in ("intra_op", "inter_op"):  # idle threads leave the cores alone
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    settings.intra_op_num_threads = torch.get_num_threads()
    cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    chosen = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if cuda else []
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=[*chosen, "CPUExecutionProvider"])
        if isinstance(session.get_inputs()[0].shape[0], int) and settings.intra_op_num_threads > 1:
            settings.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(path, settings, providers=[*chosen, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load: {_first_line(error)}") from None
    return session


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _output(path: Path, session: Any, asked: str | None) -> str:
    names = [part.name for part in session.get_outputs()]
    if asked is not None and asked not in names:
        raise InputError(f"{path} has no output {asked!r}: it has {', '.join(names)}")
    if asked is None and len(names) > 1:
        raise InputError(f"{path} has several outputs: say which is the embedding, as ?output={names[0]} "
                         f"(it has {', '.join(names)})")
    return asked or names[0]


def _preprocessing(path: Path, session: Any, side: int | str | None, options: dict[str, str]) -> Preprocessing:
    known = session.get_modelmeta().custom_metadata_map
    raw = session.get_inputs()[0].type == "tensor(uint8)"  # it normalises by itself
    if "size" not in options and not isinstance(side, int):
        raise InputError(f"{path} takes pictures of any size: say which it was trained with, as ?size=112")
    size = _whole(path, "size", options["size"]) if "size" in options else side
    mean, std = options.get("mean") or known.get("mean"), options.get("std") or known.get("std")
    interpolation = options.get("interpolation", "bilinear")
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"unknown interpolation {interpolation!r} of onnx:{path}: choose {', '.join(INTERPOLATIONS)}")
    return Preprocessing(
        size=size, resize=_whole(path, "resize", options["resize"]) if "resize" in options else size,
        interpolation=interpolation, scale=_numbers(path, "scale", options.get("scale"), (1.0 if raw else 1 / 255,))[0],
        mean=_numbers(path, "mean", mean, (0.0,) * 3 if raw else IMAGENET_MEAN),
        std=_numbers(path, "std", std, (1.0,) * 3 if raw else IMAGENET_STD),
    )


def _whole(path: Path, key: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 4096:
        raise InputError(f"option {key}={text} of onnx:{path} is not a side in pixels")
    return int(text)


def _numbers(path: Path, key: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """Numbers with commas, slashes or blanks between; one stands for all."""
    if not text:
        return default
    try:
        values = tuple(float(part) for part in re.split(r"[,/;\s]+", text.strip(" []()")))
    except ValueError:
        values = ()
    if len(values) not in (1, len(default)) or (key != "mean" and not all(value > 0 for value in values)):
        raise InputError(f"option {key}={text} of onnx:{path} is not {len(default)} numbers")
    return values if len(values) == len(default) else values * len(default)


def _digest(path: Path) -> str:
    """SHA-256 of the model and of the data files that it names beside it."""
    content = path.read_bytes()
    total = hashlib.sha256(content)
    named = {content[found.end():found.end() + found[1][0]] for found in
             re.finditer(rb"\x0a\x08location\x12(.)", content, re.DOTALL)}  # as protobuf writes {"location": file}
    for file in sorted(named):
        beside = path.parent / file.decode("utf-8", "replace")
        if beside.is_file():
            with beside.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()}"
