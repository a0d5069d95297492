"""Who is who in composed films of real people: `python -m tests.benchmarks.identity [FOLDER]`.

Photographs of known people (../shared/real/faces_lfw_expr) move over a background: cuts, jump cuts in one place,
crossings with occlusion, people who leave and come back on another photograph, two look-alikes. `crop` writes tracks
and persons; IDF1 and identity switches are those of trackeval (Ristani et al. 2016; Bernardin and Stiefelhagen 2008).
It is no test: it runs for minutes and asserts nothing. The films stay in FOLDER, a temporary one by default.
"""

import csv
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from tests.data.faces.films import film

REAL = Path(__file__).resolve().parents[3] / "shared/real"
NETWORK = f"onnx:{REAL}/weights/face_recognition/mobilefacenet_foamliu_msceleb_128d.onnx"
WIDTH, HEIGHT, RATE, TILE = 640, 360, 25, 210  #: pixels; frames a second; side of a photograph at scale 1
Objects = list[tuple[str, np.ndarray]]  #: of a frame: who, and the box x y width height
Place = tuple[float, float, float]  #: x and y of the centre, scale


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum((one[:, :2] + one[:, 2:])[:, None], (other[:, :2] + other[:, 2:])[None])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    return inner / (one[:, 2:].prod(axis=1)[:, None] + other[:, 2:].prod(axis=1)[None] - inner)


def identity_figures(truth: Sequence[Objects], found: Sequence[Objects], least: float = 0.5) -> dict[str, float]:
    """IDF1 and identity switches (IDSW) of frames of objects that match from this overlap on, as trackeval has them."""
    names = sorted({name for frame in truth for name, _ in frame})
    tracks = sorted({name for frame in found for name, _ in frame})
    both, total, given = np.zeros((len(names), len(tracks))), np.zeros(len(names)), np.zeros(len(tracks))
    switches, ever, before = 0, dict[int, int](), dict[int, int]()
    for real, seen in zip(truth, found, strict=True):
        rows, columns = [names.index(name) for name, _ in real], [tracks.index(name) for name, _ in seen]
        np.add.at(total, rows, 1)
        np.add.at(given, columns, 1)
        if not rows or not columns:
            before = {}
            continue
        close = overlaps(np.array([box for _, box in real]), np.array([box for _, box in seen]))
        np.add.at(both, tuple(np.meshgrid(rows, columns, indexing="ij")), close >= least)
        kept = np.array([[before.get(row) == column for column in columns] for row in rows])
        score = np.where(close >= least, 1000 * kept + close, 0)  # CLEAR: what was matched before stays so
        matches = {rows[i]: columns[j] for i, j in zip(*linear_sum_assignment(-score), strict=True) if score[i, j] > 0}
        switches += sum(ever.get(row, column) != column for row, column in matches.items())
        ever |= matches
        before = matches
    # the assignment of tracks to people that explains most frames: false negatives and positives are what it leaves
    size = len(names) + len(tracks)
    misses, extras = np.zeros((size, size)), np.zeros((size, size))
    misses[:len(names)], extras[:, :len(tracks)] = total[:, None], given[None]
    misses[:len(names), :len(tracks)] -= both
    extras[:len(names), :len(tracks)] -= both
    misses[len(names):], extras[:, len(tracks):] = 0, 0
    misses[:len(names), len(tracks):] = np.where(np.eye(len(names), dtype=bool), total[:, None], 1e9)
    extras[len(names):, :len(tracks)] = np.where(np.eye(len(tracks), dtype=bool), given[None], 1e9)
    rows, columns = linear_sum_assignment(misses + extras)
    missed, surplus = misses[rows, columns].sum(), extras[rows, columns].sum()
    right = total.sum() - missed
    return {"IDF1": 100 * right / max(1, right + (missed + surplus) / 2), "IDSW": switches, "people": len(names),
            "identities": len(tracks)}


class Composer:
    """Films of photographs that move, and who is where in each frame."""

    def __init__(self, photos: dict[str, list[tuple[np.ndarray, np.ndarray]]]):
        self.photos, self.frames, self.truth, self.shots = photos, list[np.ndarray](), list[Objects](), 0
        y, x = np.mgrid[-1:1:TILE * 1j, -1:1:TILE * 1j]
        self.mask = np.clip((1 - np.hypot(x / 0.8, y / 0.95)) * 12, 0, 1).astype(np.float32)
        self.noise = np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH, 3)).astype(np.float32)
        self.taken = defaultdict[str, int](int)

    def shot(self, frames: int, *actors: tuple[str, Callable[[float], Place | None]], background: int | None = None
             ) -> None:
        """People, the rearmost first, by their place at a time of 0 to 1 (None: not there); each on a photograph that
        was not used before, as far as there are some, and on the next one when they come back."""
        self.shots += 1
        rng = np.random.default_rng(self.shots if background is None else background)
        coarse = rng.uniform(40, 200, (5, 8, 3)).astype(np.float32)
        behind = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(0, 255)
        was = {name: False for name, _ in actors}
        for step in range(frames):
            image, objects, covers = behind.copy(), Objects(), list[np.ndarray]()
            for name, path in actors:
                place = path(step / max(1, frames - 1))
                self.taken[name] += place is not None and not was[name]
                was[name] = place is not None
                if place is None:
                    continue
                x, y, scale = place
                pixels, box = self.photos[name][(self.taken[name] - 1) % len(self.photos[name])]
                matrix = cv2.getRotationMatrix2D((TILE / 2, TILE / 2), 4 * np.sin(step / 9), scale)
                matrix[:, 2] += (x - TILE / 2, y - TILE / 2)
                mask = cv2.warpAffine(self.mask, matrix, (WIDTH, HEIGHT))
                pasted = cv2.warpAffine(pixels, matrix, (WIDTH, HEIGHT))
                spot = np.s_[:, max(0, int(x - TILE)):max(0, int(x + TILE))]
                light = 1 + 0.06 * np.sin(step / 7 + x / 50)
                image[spot] += mask[spot][..., None] * (pasted[spot] * np.float32(light) - image[spot])
                centre = matrix @ (box[0] + box[2] / 2, box[1] + box[3] / 2, 1)
                objects.append((name, np.concatenate([centre - scale * box[2:] / 2, scale * box[2:]])))
                covers.append(mask)
            seen = []
            for number, (name, box) in enumerate(objects):
                left, top, right, bottom = np.round([*box[:2], *(box[:2] + box[2:])]).astype(int)
                within = np.s_[max(0, top):max(0, bottom), max(0, left):max(0, right)]
                shown = np.ones((HEIGHT, WIDTH), bool)[within]
                for cover in covers[number + 1:]:
                    shown &= cover[within] < 0.5
                if shown.sum() > 0.5 * (right - left) * (bottom - top):
                    seen.append((name, box))
            image += np.roll(self.noise, 97 * len(self.frames), axis=1)
            self.frames.append(image.clip(0, 255).astype(np.uint8)[..., ::-1])
            self.truth.append(seen)


def still(x: float, y: float = 180, scale: float = 1.0) -> Callable[[float], Place | None]:
    return lambda t: (x + 12 * np.sin(6 * t), y + 6 * np.sin(9 * t), scale)


def walk(start: float, end: float, *, away: tuple[float, float] = (2, 2), y: float = 180, scale: float = 1.0
         ) -> Callable[[float], Place | None]:
    """From one x to another; not there in the times `away`."""
    return lambda t: None if away[0] <= t < away[1] else (start + (end - start) * t, y, scale)


def compose(photos: dict[str, list[tuple[np.ndarray, np.ndarray]]], people: Sequence[str], alike: tuple[str, str]
            ) -> dict[str, Composer]:
    """Three films: of cuts, of crossings, of people who leave and come back."""
    p, (a, b), left, right = people, alike, 190, 450
    cuts, crossings, gaps = Composer(photos), Composer(photos), Composer(photos)
    for names in ((0, 1), (0,), (2,), (1,), (2, 3), (4,), (0,), (4, 5), (5,), (3,), (1, 2), (0, 4)):
        cuts.shot(20, *((p[name], still(x)) for name, x in zip(names, (left, right), strict=False)))
    for name in (a, b, a, p[3], b, p[5]):  # jump cuts: the same place before the same wall
        cuts.shot(16, (name, still(320)), background=99)
    for one, other in ((p[6], p[7]), (a, b), (p[8], p[9]), (p[7], p[8])):
        crossings.shot(60, (one, walk(120, 520)), (other, walk(520, 120)))
        crossings.shot(50, (other, lambda t: (200 + 200 * np.sin(3 * t) ** 2, 175, 0.9)), (one, walk(500, 220)))
    for one, other, third in ((p[10], p[11], p[12]), (p[12], p[13], p[10]), (p[11], a, p[13]), (b, p[0], p[6])):
        gaps.shot(80, (one, walk(left, left + 40, away=(0.25, 0.75))), (other, walk(right, right - 30)),
                  (third, lambda t: (left + 20, 180, 0.95) if 0.35 <= t < 0.65 else None))
        gaps.shot(50, (other, walk(right, right, away=(0.3, 0.7))), (third, walk(left, left + 60)))
    return {"cuts": cuts, "crossings": crossings, "gaps": gaps}


def load_photos() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By person: photographs (TILE, TILE, 3) BGR and the box of the face that YuNet finds in each."""
    from twofold.data.faces.detectors import open_detector
    from twofold.data.faces.settings import CropSettings

    detector, photos = open_detector(REAL / "weights/detectors/yunet_n_dynamic.onnx").create(CropSettings()), {}
    for row in csv.DictReader((REAL / "faces_lfw_expr/labels.csv").open()):
        image = cv2.imread(str(REAL / "faces_lfw_expr" / row["image"]))
        image = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA)
        if faces := detector.detect(image):
            photos.setdefault(row["subject"], []).append((image, np.array(faces[0].box)))
    return photos


def look_alikes(photos: dict[str, list[tuple[np.ndarray, np.ndarray]]], people: Sequence[str]) -> tuple[str, str]:
    """The two people whom the network itself finds most alike, by the mean over their photographs."""
    from twofold.data.faces.detect import portrait
    from twofold.data.faces.detectors import open_detector
    from twofold.data.faces.settings import CropSettings
    from twofold.extract.inputs import open_identity

    model, mean = open_identity(NETWORK), {}
    detector = open_detector(REAL / "weights/detectors/yunet_n_dynamic.onnx").create(CropSettings())
    for name in people:
        units = model.units([portrait(image, detector.detect(image)[0]) for image, _ in photos[name]])
        mean[name] = units.mean(axis=0)
    return max(((one, other) for one in people for other in people if one < other),
               key=lambda pair: float(mean[pair[0]] @ mean[pair[1]]))


def read_objects(table: pd.DataFrame, source: str, column: str, frames: int) -> list[Objects]:
    """What faces.csv says of a film, frame by frame."""
    objects: list[Objects] = [[] for _ in range(frames)]
    rows = table[(table["source"] == source) & (table["box"] != "")]
    for frame, name, box in zip(rows["frame"], rows[column], rows["box"], strict=True):
        objects[int(frame)].append((name, np.array(box.split(), float)))
    return objects


def main(folder: Path) -> None:
    from twofold import pipeline

    os.environ["TWOFOLD_WEIGHTS"] = str(folder / "weights")
    (folder / "weights").mkdir(exist_ok=True)
    for name, path in (("face_detection_yunet.onnx", "detectors/yunet_n_dynamic.onnx"),):
        if not (folder / "weights" / name).exists():
            (folder / "weights" / name).symlink_to(REAL / "weights" / path)
    photos = load_photos()
    people = sorted((name for name in photos if len(photos[name]) > 1), key=lambda name: (-len(photos[name]), name))
    alike = look_alikes(photos, people)
    chosen = [name for name in people if name not in alike][:14]
    films = compose(photos, chosen, alike)
    for name, composed in films.items():
        if not (folder / "films" / f"{name}.mp4").exists():
            (folder / "films").mkdir(exist_ok=True)
            film(folder / "films" / f"{name}.mp4", composed.frames, rate=RATE)
    mobilenet = f"torchvision:mobilenet_v2={REAL}/weights/imagenet/mobilenet_v2-b0353104.pth"
    for label, words in {
            "overlap only": [], "MobileFaceNet": ["--identity", NETWORK, "--session"],
            "MobileFaceNet, --detect-every 5": ["--identity", NETWORK, "--session", "--detect-every", "5"],
            "MobileNetV2 (ImageNet)": ["--identity", "torchvision:mobilenet_v2", "--weights", mobilenet, "--session",
                                       "--same-person", "0.8"]}.items():
        out = folder / label.replace(" ", "_")
        if not (out / "faces.csv").exists():
            assert pipeline.main(["crop", str(folder / "films"), "-o", str(out), *words]) == 0
        table = pd.read_csv(out / "faces.csv", dtype=str, keep_default_na=False)
        together: tuple[list[Objects], list[Objects]] = [], []
        for column in ("track", *(["person"] if words else [])):
            together = [], []
            for name, composed in films.items():
                found = read_objects(table, f"{name}.mp4", column, len(composed.frames))
                print(label, column, name, identity_figures(composed.truth, found))
                together[0].extend(composed.truth)
                together[1].extend([(name * (column == "track") + who, box) for who, box in frame] for frame in found)
            print(label, column, "all films, one session", identity_figures(*together), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))
