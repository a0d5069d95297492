"""Drawn faces for demonstrations and tests: parametric, of many identities, moved by the action units of an expression.

Which facial muscles move in which emotion (action units of the Facial Action Coding System): P. Ekman, W. V. Friesen,
Facial Action Coding System (1978), with the emotion table of EMFACS; compounds as the union of their two basics: S. Du,
Y. Tao, A. M. Martinez, Compound facial expressions of emotion, PNAS 111 (2014); valence and arousal after
J. A. Russell, A circumplex model of affect (1980). Deterministic by seed.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

from twofold.data.labels import BASIC, Taxonomy
from twofold.data.manifest import SOFT, Manifest, build_manifest
from twofold.data.targets import UNIT

Point = tuple[float, float]
Colour = tuple[int, int, int]  #: red, green, blue
SCALE = 2  #: faces are drawn larger and reduced, for smooth edges
SPLIT_OF = ("train", "train", "train", "val", "test")  #: by person, in turn
HAIRS = ((38, 28, 24), (84, 56, 36), (150, 104, 60), (196, 164, 108), (120, 60, 40), (130, 128, 126))
IRISES = ((84, 58, 38), (70, 104, 130), (86, 112, 74), (52, 40, 34))
#: action unit number to strength (0 to 1) in a full expression
BASIC_UNITS: dict[str, dict[int, float]] = {
    "neutral": {},
    "happiness": {6: 1.0, 12: 1.0, 25: 0.5},
    "sadness": {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.6},
    "surprise": {1: 0.9, 2: 1.0, 5: 0.8, 26: 1.0},
    "fear": {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 20: 1.0, 25: 0.7},
    "disgust": {4: 0.4, 9: 1.0, 10: 0.8, 16: 0.5, 17: 0.5},
    "anger": {4: 1.0, 5: 0.4, 7: 0.9, 23: 1.0, 24: 0.6},
    "contempt": {14: 1.0},  # on one side of the mouth only
}
#: valence and arousal of a full expression, from -1 to 1
CIRCUMPLEX = {"neutral": (0.0, 0.0), "happiness": (0.9, 0.4), "sadness": (-0.8, -0.4), "surprise": (0.1, 0.9),
              "fear": (-0.6, 0.8), "disgust": (-0.7, 0.2), "anger": (-0.5, 0.7), "contempt": (-0.5, -0.1)}
BLENDS = ((0.5, 0.5), (0.7, 0.3), (0.3, 0.7))  #: shares of the two emotions of a face of known truth, by person in turn


def action_units(emotions: Sequence[str], shares: Sequence[float] = ()) -> dict[int, float]:
    """Action units of a basic emotion, or of a compound: the union of its parts, the stronger where both move; the
    part with the largest of the `shares` moves fully, others in proportion to theirs (without: all fully)."""
    units: dict[int, float] = {}
    for emotion, share in zip(emotions, shares or [1.0] * len(emotions), strict=True):
        for unit, strength in BASIC_UNITS[emotion].items():
            units[unit] = max(units.get(unit, 0.0), strength * share / max(shares or [1.0]))
    return units


def draw_dataset(out: Path, *, taxonomy: Taxonomy, per_class: int, size: int, seed: int,
                 per_identity: int = 2, truth: bool = False) -> Manifest:
    """Draw `per_class` faces of each class as PNG files below `out`, `per_identity` of each person; returns their
    manifest. Each person (`group`) shows every class and is in one split only; a compound row has no basic label.

    truth: blend compounds in the shares of `BLENDS`, and add what was drawn: these shares as `p_<emotion>`, `au_<n>`
    from 0 to 5, valence and arousal.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, parts = [], dict(zip(taxonomy.classes, taxonomy.basics, strict=True))
    moving = sorted({unit for emotions in parts.values() for unit in action_units(emotions)})
    for label, emotions in parts.items():
        for number in range(per_class):
            person = number // per_identity
            key = f"{label}/{number:04d}.png"
            (out / label).mkdir(exist_ok=True)
            who = seed * 100_003 + person
            shares = BLENDS[person % len(BLENDS)] if truth and len(emotions) == 2 else ()
            draw_face(identity=who, emotions=emotions, size=size, seed=number, shares=shares).save(out / key)
            rows.append({"key": key, "split": SPLIT_OF[person % len(SPLIT_OF)], taxonomy.target: label,
                         "group": f"person{person:04d}"})
            if truth:
                strength, units, _ = _pose(who, emotions, number, shares)
                rows[-1] |= _truth(dict(zip(emotions, shares or (1.0,), strict=True)), strength,
                                   {unit: units.get(unit, 0.0) for unit in moving})
    return build_manifest(pd.DataFrame(rows), source=str(out))


def _truth(shares: dict[str, float], strength: float, units: dict[int, float]) -> dict[str, str]:
    """Columns of the manifest for what was drawn."""
    valence, arousal = strength * np.sum([share * np.array(CIRCUMPLEX[name]) for name, share in shares.items()], axis=0)
    return {**{f"{SOFT}{name}": f"{shares.get(name, 0):g}" for name in BASIC},
            **{f"{UNIT}{unit}": f"{min(5.0, 5 * value):.3f}" for unit, value in units.items()},
            "valence": f"{valence:.4f}", "arousal": f"{arousal:.4f}"}


def _pose(identity: int, emotions: Sequence[str], seed: int, shares: Sequence[float]
          ) -> tuple[float, dict[int, float], np.random.Generator]:
    """How strong an expression is, its action units with their strength, and what draws the rest of the image."""
    draw = np.random.default_rng([identity, seed, 11])
    strength = draw.uniform(0.65, 1.0)
    return strength, {unit: float(np.clip(value * strength * draw.uniform(0.8, 1.2), 0, 1.1))
                      for unit, value in action_units(emotions, shares).items()}, draw


def draw_face(*, identity: int, emotions: Sequence[str], size: int, seed: int, shares: Sequence[float] = ()
              ) -> Image.Image:
    """An RGB image, size x size, of one person showing one or two basic emotions, in these shares; deterministic."""
    _, units, draw = _pose(identity, emotions, seed, shares)
    base = draw.integers(90, 220)
    shift = draw.uniform(-0.02, 0.02), draw.uniform(-0.02, 0.02)
    tilt, light = draw.uniform(-7, 7), draw.uniform(-0.22, 0.22)
    background = _colour(base + draw.integers(-25, 25, 3))
    canvas = Image.new("RGB", (size * SCALE, size * SCALE), background)
    _Face(canvas, np.random.default_rng([identity, 7]), units, shift).draw()
    canvas = canvas.rotate(float(tilt), Image.Resampling.BICUBIC, fillcolor=background)
    pixels = np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS), np.float32)
    ramp = 1 + float(light) * np.linspace(-1, 1, size, dtype=np.float32)[None, :, None]  # light from one side
    noise = draw.normal(0, 2.5, pixels.shape[:2]).astype(np.float32)[..., None]  # as of a camera
    return Image.fromarray(np.clip(pixels * ramp + noise, 0, 255).astype(np.uint8))


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255))
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    return _colour(np.array(colour) * factor)


class _Face:
    """One person with one expression, in coordinates from 0 to 1, the face's centre at (0.5, 0.54). person: chooses
    what is the same in all images of a person; units: action unit to strength; shift: of the centre."""

    def __init__(self, canvas: Image.Image, person: np.random.Generator, units: dict[int, float], shift: Point):
        self.canvas, self.side, self.pen = canvas, canvas.width, ImageDraw.Draw(canvas)
        self.units, self.centre = defaultdict(float, units), (0.5 + shift[0], 0.54 + shift[1])
        depth = person.uniform(0, 1)
        self.skin = _colour((1 - depth) * np.array([244, 208, 184]) + depth * np.array([112, 72, 50]))
        self.hair, self.iris = HAIRS[person.integers(len(HAIRS))], IRISES[person.integers(len(IRISES))]
        self.width, self.height = person.uniform(0.29, 0.345), person.uniform(0.39, 0.44)
        self.eye_gap, self.eye_size = person.uniform(0.135, 0.16), person.uniform(0.062, 0.074)
        self.brow, self.nose = person.uniform(0.016, 0.028), person.uniform(0.045, 0.065)
        self.lips, self.fringe = person.uniform(0.014, 0.026), person.uniform(0.16, 0.26)
        self.long_hair = person.random() < 0.45

    def draw(self) -> None:
        self._head()
        self._cheeks()
        for side in (-1, 1):
            self._eye(side)
            self._brow(side)
        self._nose()
        self._mouth()
        top, wide = -self.height - 0.02, self.width
        edge = _bezier((-wide * 0.98, top + self.fringe), (0, top + self.fringe * 0.25), (wide * 0.98, top + 0.2))
        self._polygon([(-wide, top + 0.16), (-wide * 0.7, top + 0.02), (0, top - 0.02), (wide * 0.7, top + 0.02),
                       (wide, top + 0.16), *reversed(edge)], self.hair)

    def _head(self) -> None:
        wide, drop = self.width + 0.045, 0.44
        self._ellipse(0, -0.09, wide, self.height - 0.03, self.hair)
        if self.long_hair:
            self._polygon([(-wide, -0.1), (wide, -0.1), (self.width + 0.03, drop), (-self.width - 0.03, drop)],
                          self.hair)
        self._polygon([(-0.12, 0.25), (0.12, 0.25), (0.15, 0.6), (-0.15, 0.6)], _shade(self.skin, 0.82))
        for side in (-1, 1):
            self._ellipse(side * self.width, 0.0, 0.035, 0.06, _shade(self.skin, 0.92))
        jaw = 0.05 * self.units[26]
        self._ellipse(0, jaw / 2, self.width, self.height + jaw / 2, self.skin)

    def _cheeks(self) -> None:
        """AU6 lifts and reddens the cheeks; AU12 and AU10 cut the fold from nose to mouth."""
        lift, fold = self.units[6], max(self.units[12], self.units[10], self.units[9] * 0.7)
        blush = Image.new("L", self.canvas.size, 0)
        pen = ImageDraw.Draw(blush)
        for side in (-1, 1):
            x, y, r = side * 0.17, 0.1 - 0.03 * lift, 0.06 + 0.02 * lift
            pen.ellipse([*self._at(x - r, y - r * 0.8), *self._at(x + r, y + r * 0.8)], fill=int(40 + 70 * lift))
        red = _shade(self.skin, 0.8)[:1] + _shade(self.skin, 0.62)[1:]
        blush = blush.filter(ImageFilter.GaussianBlur(self.side * 0.03))
        self.canvas.paste(Image.new("RGB", self.canvas.size, red), mask=blush)
        if fold > 0.2:
            for side in (-1, 1):
                self._line([(side * 0.065, 0.1), (side * (0.1 + 0.02 * fold), 0.14),
                            (side * (0.125 + 0.02 * fold), 0.2)], 0.004 + 0.005 * fold, _shade(self.skin, 0.74))

    def _eye(self, side: int) -> None:
        """AU5 raises the upper lid, AU7 tightens both, AU6 pushes the lower lid up."""
        pose, size = self.units, self.eye_size
        x, y = side * self.eye_gap, -0.06
        upper = size * np.clip(0.5 + 0.42 * pose[5] - 0.25 * pose[7] - 0.2 * pose[6] - 0.22 * pose[9], 0.1, 1.0)
        lower = size * np.clip(0.4 - 0.25 * pose[6] - 0.2 * pose[7] - 0.18 * pose[9] + 0.06 * pose[5], 0.06, 0.5)
        angles = np.linspace(0, np.pi, 12)
        top = [(x + size * np.cos(a), y - upper * np.sin(a)) for a in angles]
        bottom = [(x - size * np.cos(a), y + lower * np.sin(a)) for a in angles]
        mask = Image.new("1", self.canvas.size, 0)
        ImageDraw.Draw(mask).polygon([self._at(*point) for point in top + bottom], fill=1)
        eye = Image.new("RGB", self.canvas.size, (246, 244, 240))
        pen = ImageDraw.Draw(eye)
        for radius, colour in ((0.56, self.iris), (0.28, (16, 14, 14))):
            r = radius * size
            pen.ellipse([*self._at(x - r, y - r), *self._at(x + r, y + r)], fill=colour)
        r = 0.1 * size
        pen.ellipse([*self._at(x, y - 3 * r), *self._at(x + 2 * r, y - r)], fill=(255, 255, 255))
        self.canvas.paste(eye, mask=mask)
        self._line(top, 0.009, _shade(self.skin, 0.35))
        self._line(bottom, 0.004, _shade(self.skin, 0.6))
        self._line([(px, py - 0.02 - 0.01 * pose[5]) for px, py in top[2:-2]], 0.004, _shade(self.skin, 0.72))

    def _brow(self, side: int) -> None:
        """AU1 raises the inner end, AU2 the outer, AU4 lowers and draws the inner ends together."""
        pose, y = self.units, -0.155
        inner = (0.062 - 0.022 * pose[4], y - 0.055 * pose[1] + 0.05 * pose[4] * (1 - 0.55 * min(1, pose[1])))
        arch = (0.135, y - 0.022 - 0.035 * pose[1] * 0.5 - 0.045 * pose[2] + 0.03 * pose[4])
        outer = (0.215, y + 0.02 - 0.06 * pose[2] + 0.008 * pose[4] + 0.012 * pose[1] * (1 - min(1, pose[2])))
        curve = _bezier(inner, arch, outer)
        self._line([(side * px, py) for px, py in curve], self.brow, _shade(self.hair, 0.8))
        if pose[4] > 0.3 and side == 1:
            for place in (-0.017, 0.017):
                self._line([(place, -0.17), (place * 0.8, -0.125)], 0.005 * pose[4], _shade(self.skin, 0.68))
        if pose[1] > 0.4 and side == 1:
            wide = 0.16 if pose[2] > 0.3 else 0.07
            for row in (0.0, 0.03):
                self._line(_bezier((-wide, -0.262 - row), (0, -0.272 - row), (wide, -0.262 - row)), 0.004,
                           _shade(self.skin, 0.78))

    def _nose(self) -> None:
        """AU9 wrinkles the bridge and widens the wings."""
        wide, wrinkle, dark = self.nose * (1 + 0.2 * self.units[9]), self.units[9], _shade(self.skin, 0.7)
        up = 0.014 * wrinkle
        self._line(_bezier((-0.016, -0.03), (-0.026, 0.04), (-wide * 0.9, 0.085 - up)), 0.005, dark)
        self._line(_bezier((-wide, 0.088 - up), (0, 0.115 - up), (wide, 0.088 - up)), 0.008, dark)
        for y in (-0.055, -0.033, -0.011) if wrinkle > 0.2 else ():
            self._line(_bezier((-0.034, y + 0.01), (0, y - 0.008), (0.034, y + 0.01)), 0.005 * wrinkle, dark)

    def _mouth(self) -> None:
        """AU12/15 move the corners up/down, 20 apart, 23/24 together; 25/26 part the lips, 10/16 bare the teeth."""
        pose, full = self.units, self.lips
        half = 0.1 + 0.035 * pose[12] + 0.03 * pose[20] - 0.025 * pose[23] - 0.012 * pose[26] - 0.01 * pose[24]
        corner = -0.046 * pose[12] + 0.036 * pose[15] + 0.01 * pose[20]
        sag = 0.05 * pose[12] * (1 - 0.4 * pose[26])
        tension = max(pose[23], pose[24]) * (1 - 0.5 * max(pose[25], pose[26]))
        gap = 0.035 * pose[25] * (1 + pose[12]) + 0.1 * pose[26] * (1 - 0.35 * pose[12])
        gap += 0.02 * pose[10] + 0.022 * pose[16]
        lip, y = full * (1 - 0.65 * tension), 0.2 + 0.012 * pose[26] - 0.012 * pose[17]
        left, right = (-half, y + corner), (half, y + corner - 0.04 * pose[14])
        raised = 0.028 * pose[10] + 0.016 * pose[9]
        top = _bezier(left, (0, y - gap * 0.45 - raised - corner * 0.35 + sag * 0.5), right)
        bottom = _bezier(left, (0, y + gap * 1.25 + 0.008 - corner * (0.2 if gap > 0.02 else 0.9) + sag), right)
        red = _colour((1 - 0.45) * np.array(_shade(self.skin, 0.8)) + 0.45 * np.array((170, 50, 60)))
        upper = _bezier(left, (0, top[len(top) // 2][1] * 2 - y - corner * 0.2 - 2.0 * lip), right)
        lower = _bezier(left, (0, bottom[len(bottom) // 2][1] * 2 - y + 2.4 * lip), right)
        self._polygon([*upper, *reversed(lower)], red)
        if gap > 0.012:
            self._polygon([*top, *reversed(bottom)], (70, 22, 26))
            teeth = _bezier(left, (0, top[len(top) // 2][1] + gap * 0.34), right)
            self._polygon([*top, *reversed(teeth)], (238, 234, 226))
            if pose[10] > 0.4 or pose[20] > 0.4:
                middle = [(px, (a + b) / 2) for (px, a), (_, b) in zip(top, bottom, strict=True)]
                self._line(middle[3:-3], 0.003, (120, 90, 86))
        else:
            self._line(top, 0.007, _shade(red, 0.55))
        if pose[17] > 0.3:
            self._line(_bezier((-0.03, 0.295), (0, 0.28), (0.03, 0.295)), 0.006, _shade(self.skin, 0.75))
        for side, mark in ((-1, pose[15]), (1, pose[15] + pose[14])):
            if mark > 0.3:
                x = side * (half + 0.008)
                self._line([(x, y + corner - 0.012), (x + side * 0.006, y + corner + 0.012)], 0.005, _shade(red, 0.6))

    def _at(self, x: float, y: float) -> Point:
        return (self.centre[0] + x) * self.side, (self.centre[1] + y) * self.side

    def _ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.pen.ellipse([*self._at(x - rx, y - ry), *self._at(x + rx, y + ry)], fill=colour)

    def _polygon(self, points: list[Point], colour: Colour) -> None:
        self.pen.polygon([self._at(*point) for point in points], fill=colour)

    def _line(self, points: list[Point], width: float, colour: Colour) -> None:
        self.pen.line([self._at(*point) for point in points], fill=colour, width=max(1, round(width * self.side)),
                      joint="curve")


def _bezier(start: Point, middle: Point, end: Point) -> list[Point]:
    t = np.linspace(0, 1, 14)[:, None]
    curve = (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(middle) + t**2 * np.array(end)
    return [(float(x), float(y)) for x, y in curve]
