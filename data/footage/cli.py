"""The verb `crop`: parse, call one function, return its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twofold import Report

Detector = Annotated[Path | None, typer.Option(help="YuNet's ONNX file, where not in the weights folder.")]


def crop(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photographs, videos, folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for faces.csv and images/.")],
    fps: Annotated[float, typer.Option(help="Videos: look at that many frames a second; 0 is all.")] = 0.0,
    every: Annotated[int, typer.Option(help="Videos: look at each N-th frame.")] = 1,
    align: Annotated[str, typer.Option(help="similarity (landmarks to a template) or square (the box).")]
    = "similarity",
    size: Annotated[int, typer.Option(help="Side of a face's image in pixels.")] = 224,
    margin: Annotated[float, typer.Option(help="More around the face: a share of the side, on every side.")] = 0.0,
    min_score: Annotated[float, typer.Option(help="Less sure detections are no faces.")] = 0.6,
    min_size: Annotated[int, typer.Option(help="Smaller faces are left out; small values take more time.")] = 40,
    jpeg: Annotated[int, typer.Option(help="Write JPEG of this quality; 0 writes PNG.")] = 0,
    detector: Detector = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads; 0 takes one a core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write faces.csv anew though somebody changed it.")]
    = False,
) -> Report:
    """Photographs and videos to aligned faces: DIR/faces.csv, a manifest, and DIR/images/."""
    from twofold.data.footage.crop import CropRequest
    from twofold.data.footage.crop import crop as run_crop
    from twofold.data.footage.detection.detect import open_yunet
    from twofold.data.footage.detection.detector_file import find_detector
    from twofold.data.footage.settings import CropSettings, Sampling

    settings = CropSettings(align=align, size=size, margin=margin, min_score=min_score, min_size=min_size, jpeg=jpeg)
    request = CropRequest(inputs=inputs, out=out, settings=settings, sampling=Sampling(fps=fps, every=every),
                          workers=workers, overwrite=overwrite)
    return run_crop(request, open_yunet(find_detector(detector)))
