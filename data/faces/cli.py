"""The verb `crop`: parse, call one function, return its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from twofold import Report

Detector = Annotated[Path | None, typer.Option(help="YuNet's ONNX file, where not in the weights folder.")]


def with_settings(verb: Callable[..., Report]) -> Callable[..., Report]:
    """The verb with an option for each field of `CropSettings`; they reach it as the dict `changes`."""
    from twofold.data.faces.settings import CropSettings
    from twofold.data.utils.options import with_options

    return with_options(CropSettings)(verb)


@with_settings
def crop(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photographs, videos, folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for faces.csv and images/.")],
    changes: dict[str, Any],
    fps: Annotated[float, typer.Option(help="Videos: look at that many frames a second; 0 is all.")] = 0.0,
    every: Annotated[int, typer.Option(help="Videos: look at each N-th frame.")] = 1,
    detector: Detector = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads; 0 takes one a core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write faces.csv anew though somebody changed it.")]
    = False,
) -> Report:
    """Photographs and videos to aligned faces: DIR/faces.csv, a manifest, and DIR/images/."""
    from twofold.data.faces.crop import CropRequest
    from twofold.data.faces.crop import crop as run_crop
    from twofold.data.faces.detect import open_yunet
    from twofold.data.faces.detector_file import find_detector
    from twofold.data.faces.settings import CropSettings, Sampling

    settings = CropSettings(**{name: value for name, value in changes.items() if value is not None})
    request = CropRequest(inputs=inputs, out=out, settings=settings, sampling=Sampling(fps=fps, every=every),
                          workers=workers, overwrite=overwrite)
    return run_crop(request, open_yunet(find_detector(detector)))
