"""What people write: a loop of timm or torchvision over a DataLoader, a backbone after the other."""

import io
import time
from collections.abc import Sequence

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from twofold.data.images.sources import ImageSource
from twofold.extract.encoders.encoder import Encoder


class Pictures(Dataset):
    """Faces as normalised tensors (3, S, S), by torchvision's transforms."""

    def __init__(self, faces: ImageSource, keys: Sequence[str], encoder: Encoder):
        how = encoder.preprocessing
        resize = (how.resize, how.resize) if how.rule == "both" else how.resize
        mode = transforms.InterpolationMode(how.interpolation)
        self.faces, self.keys = faces, keys
        self.transform = transforms.Compose([
            transforms.Resize(resize, interpolation=mode), transforms.CenterCrop(how.size), transforms.ToTensor(),
            transforms.Normalize(how.mean, how.std)])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.as_tensor(self.transform(Image.open(io.BytesIO(self.faces.read(self.keys[row]))).convert("RGB")))


def plain_seconds(network: torch.nn.Module, encoder: Encoder, keys: Sequence[str], faces: ImageSource, *,
                  workers: int) -> float:
    """Seconds for all faces with one backbone: `network` in its own layout, on the encoder's device and precision.

    The time until the first batch is there, in which the loader's processes start, is not counted.
    """
    network = network.to(encoder.device).eval()
    loader = DataLoader(Pictures(faces, keys, encoder), batch_size=encoder.batch_size, num_workers=workers,
                        pin_memory=encoder.device.type == "cuda", persistent_workers=workers > 0)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(encoder.precision)
    began, features = 0.0, []
    with torch.no_grad(), torch.autocast(encoder.device.type, dtype=kind, enabled=kind is not None):
        for pictures in loader:
            began = began or time.perf_counter()
            features.append(network(pictures.to(encoder.device)).float().cpu())
    return time.perf_counter() - began
