"""Drawn faces: parametric, in colour, of many identities, moved by the action units of their expression.

They stand in for photographs wherever the pipeline itself is shown or tested. Deterministic by seed.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from twofold.data.labels import Taxonomy, basic_pair
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.synthetic.action_units import action_units
from twofold.data.synthetic.painter import Colour, Identity, Painter, Pose

SCALE = 2  #: faces are drawn larger and reduced, for smooth edges
SPLIT_OF = ("train", "train", "train", "val", "test")  #: by identity, in turn
PER_IDENTITY = 2  #: pictures of one person in each class


def draw_face(*, identity: int, emotions: tuple[str, ...], size: int, seed: int) -> Image.Image:
    """An RGB picture, size x size, of one person showing one or two basic emotions; same arguments, same picture."""
    person = _identity(np.random.default_rng([identity, 7]))
    draw = np.random.default_rng([identity, seed, 11])
    pose = _pose(draw, action_units(emotions))
    canvas = Image.new("RGB", (size * SCALE, size * SCALE), pose.background)
    Painter(canvas, person, pose).face()
    canvas = canvas.rotate(pose.tilt, Image.Resampling.BICUBIC, fillcolor=pose.background)
    small = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return _lit(small, pose.light, draw)


def draw_dataset(out: Path, *, taxonomy: Taxonomy, per_class: int, size: int, seed: int,
                 per_identity: int = PER_IDENTITY) -> Manifest:
    """Draw `per_class` faces of each class as PNG files below `out`, `per_identity` of each person; returns their
    manifest.

    Each person shows every class and stands in one split only (`group`); a compound row carries no basic label.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for label in taxonomy.classes:
        emotions = basic_pair(label) if taxonomy.target == "compound" else (label,)
        for number in range(per_class):
            person = number // per_identity
            key = f"{label}/{number:04d}.png"
            (out / label).mkdir(exist_ok=True)
            face = draw_face(identity=seed * 100_003 + person, emotions=emotions, size=size, seed=number)
            face.save(out / key)
            rows.append({"key": key, "split": SPLIT_OF[person % len(SPLIT_OF)], taxonomy.target: label,
                         "group": f"person{person:04d}"})
    return build_manifest(pd.DataFrame(rows), source=str(out))


def _identity(draw: np.random.Generator) -> Identity:
    depth = draw.uniform(0, 1)
    skin = _colour((1 - depth) * np.array([244, 208, 184]) + depth * np.array([112, 72, 50]))
    hairs = [(38, 28, 24), (84, 56, 36), (150, 104, 60), (196, 164, 108), (120, 60, 40), (130, 128, 126)]
    irises = [(84, 58, 38), (70, 104, 130), (86, 112, 74), (52, 40, 34)]
    return Identity(
        skin=skin, hair=hairs[draw.integers(len(hairs))], iris=irises[draw.integers(len(irises))],
        width=draw.uniform(0.29, 0.345), height=draw.uniform(0.39, 0.44), eye_gap=draw.uniform(0.135, 0.16),
        eye_size=draw.uniform(0.062, 0.074), brow=draw.uniform(0.016, 0.028), nose=draw.uniform(0.045, 0.065),
        lips=draw.uniform(0.014, 0.026), fringe=draw.uniform(0.16, 0.26), long_hair=bool(draw.random() < 0.45),
    )


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def _pose(draw: np.random.Generator, units: dict[int, float]) -> Pose:
    strength = draw.uniform(0.65, 1.0)
    active = {unit: float(np.clip(value * strength * draw.uniform(0.8, 1.2), 0, 1.1)) for unit, value in units.items()}
    base = draw.integers(90, 220)
    return Pose(
        units=active, shift=(draw.uniform(-0.02, 0.02), draw.uniform(-0.02, 0.02)), tilt=float(draw.uniform(-7, 7)),
        light=float(draw.uniform(-0.22, 0.22)),
        background=_colour(base + draw.integers(-25, 25, 3)),
    )


def _lit(image: Image.Image, light: float, draw: np.random.Generator) -> Image.Image:
    """Light from one side, a little noise, as any camera adds."""
    pixels = np.asarray(image, np.float32)
    ramp = 1 + light * np.linspace(-1, 1, image.width, dtype=np.float32)[None, :, None]
    noise = draw.normal(0, 2.5, pixels.shape[:2]).astype(np.float32)[..., None]
    return Image.fromarray(np.clip(pixels * ramp + noise, 0, 255).astype(np.uint8))
