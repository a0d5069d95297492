"""The frames of the ABAW challenge (`01/00001.jpg`) among the faces cropped from its videos (`01.mp4`)."""

import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from twofold.data.faces.crop import crop
from twofold.data.faces.detectors import open_detector
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.faces.sources import find_sources
from twofold.data.manifest import read_manifest
from twofold.data.utils.atomic import atomic_write
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE_SUFFIX

CORNER_PENALTY = 0.5  #: share of its weight that a face loses in a corner of the image

log = logging.getLogger(__name__)


def challenge_frames(table: pd.DataFrame, frames: Sequence[str]) -> list[str]:
    """For each frame of a template, the key of its face; where there is none, the frame as it is written there. table:
    of a manifest that `crop` wrote. A video is its file's name without the suffix, `01` or `1`; the template counts
    frames from 1. A video has one face a frame: that of its main person (`main_tracks`)."""
    faces = table[(table["track"] != "") & ~table["key"].str.endswith(NO_FACE_SUFFIX)]
    main = main_tracks(faces)
    faces = faces[faces["source"].map(main) == faces["track"]]
    keys = {(_video_name(source), int(frame)): key
            for source, frame, key in zip(faces["source"], faces["frame"], faces["key"], strict=True)}
    frame_keys = []
    for name in frames:
        video, _, frame = name.partition("/")
        number = PurePosixPath(frame).stem
        frame_keys.append(keys.get((_video_name(f"{video}.x"), int(number) - 1), name) if number.isdecimal() else name)
    return frame_keys


def main_tracks(faces: pd.DataFrame) -> dict[str, str]:
    """The main track of each source: the largest sum of areas in the frames, weighted towards the centre."""
    if faces.empty:
        return {}
    x, y, width, height = (faces["box"].str.split(expand=True).astype(float)[place] for place in range(4))
    across, down = (faces["picture"].str.split(expand=True).astype(float)[place] for place in range(2))
    away = np.hypot(2 * (x + width / 2) / across - 1, 2 * (y + height / 2) / down - 1) / math.sqrt(2)
    share = width * height / (across * down) * (1 - CORNER_PENALTY * away.clip(upper=1))
    weights = faces.assign(share=share, number=-faces["track"].astype(int)).groupby(["source", "number"])["share"].sum()
    order = weights.reset_index().sort_values(["share", "number"])  # the first track where two weigh the same
    return {source: str(-number) for source, number in zip(order["source"], order["number"], strict=True)}


def link_frames(table: pd.DataFrame, frames: Sequence[str], crops: Path, folder: Path) -> int:
    """Put the faces of a template's frames under their names (`01/00001.png`), as hard links to the crops where the
    file system has them, else as copies; returns how many frames have a face."""
    pairs = [(name, key) for name, key in zip(frames, challenge_frames(table, frames), strict=True) if key != name]
    for name, key in pairs:
        target = folder / PurePosixPath(name).with_suffix(PurePosixPath(key).suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target, durable=False) as temporary:
            temporary.unlink()
            try:
                os.link(crops / key, temporary)
            except OSError:
                shutil.copyfile(crops / key, temporary)
    return len(pairs)


def _video_name(source: str) -> str:
    stem = PurePosixPath(source).stem
    return str(int(stem)) if stem.isdecimal() else stem


def crop_challenge(videos: Path, asked: Sequence[str], out: Path, detector: Path | None) -> Path:
    """Crop the challenge's videos and put the faces of their main persons where a template asks for them."""
    cropped = crop(find_sources([videos], ignore=out), out, open_detector(detector), settings=CropSettings(),
                   sampling=Sampling())
    log.info("%s", cropped.text())
    if cropped.stopped:
        raise InputError("stopped before the videos were cropped: the same command goes on")
    count = link_frames(read_manifest(out / "faces.csv").table, asked, out, out / "frames")
    log.info("%s of %s frames of the template have a face in %s", f"{count:,}", f"{len(asked):,}", out / "frames")
    return out / "frames"
