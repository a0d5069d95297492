"""What extracting a given manifest would take here."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from twofold.data.manifest import read_manifest
from twofold.extract.doctor.diagnosis import Check
from twofold.extract.doctor.machine import check_disk
from twofold.extract.encoders.random_weights import noise_pictures
from twofold.extract.encoders.registry import load_encoder

BYTES_OF_INDEX = 200  #: key, hash and their share of the file, a face


def check_work(manifest: Path, backbones: Sequence[str], store: Path) -> list[Check]:
    """Bytes and hours to expect of each backbone (forward passes alone, with untrained weights), and room for them.

    Raises InputError for a manifest that cannot be read, or an unknown backbone.
    """
    faces = len(read_manifest(manifest))
    checks, needed = [], 0
    for name in backbones:
        encoder = load_encoder(name, weights=None if name.startswith("onnx:") else "random:0")
        pictures = noise_pictures(encoder.preprocessing, torch.Generator().manual_seed(0))[:1]
        batch = (pictures.permute(0, 2, 3, 1) * 0).to(torch.uint8).repeat(encoder.batch_size, 1, 1, 1)
        encoder.encode(batch)
        start = time.perf_counter()
        encoder.encode(batch)
        rate = len(batch) / (time.perf_counter() - start)
        size = faces * (2 * encoder.dim + BYTES_OF_INDEX)
        needed += size
        checks.append(Check("Work", name, "ok",
                            f"{faces:,} faces: {size / 1e9:.2f} GB, about {faces / rate / 3600:.2g} h of forward "
                            f"passes ({rate:.0f} faces/s on {encoder.device})"))
    return [*checks, check_disk(store, needed)]
