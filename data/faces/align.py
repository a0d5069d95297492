"""Crop a face out of an image: turned upright onto a template by its landmarks, or the square around its box."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from twofold.data.faces.detectors import Detection, require_opencv
from twofold.data.faces.settings import CropSettings

#: Where the five landmarks lie in a crop of 100 x 100: as tight as RAF-DB's aligned faces, which are 100 x 100 too.
#: Eye on the left of the image, the other eye, nose, left and right corner of the mouth; x and y from the corner.
TEMPLATE = ((31.0, 36.0), (69.0, 36.0), (50.0, 57.5), (34.5, 80.0), (65.5, 80.0))


#: The landmarks of a face that looks at the camera: right, down and towards the camera, in 1/38 of the distance between
#: the eyes. Right and down are means of YuNet's on 167 news photographs, made symmetric; the nose is 23 mm in front.
MEAN_FACE = ((-19.0, 0.0, 0.0), (19.0, 0.0, 0.0), (0.0, 21.9, 14.0), (-15.6, 39.5, 0.0), (15.6, 39.5, 0.0))


def head_pose(landmarks: np.ndarray) -> np.ndarray:
    """(N, 3) yaw, pitch and roll in degrees of faces by their landmarks (N, 5, 2), in pixels of the upright picture.

    Yaw above 0: the nose points to the right of the picture; pitch: up; roll: the head is tilted clockwise. It is the
    rotation nearest to the affine map from `MEAN_FACE` to the landmarks, for a far camera: at 66 cm up to 2 degrees
    wrong, at 33 cm up to 4; landmarks that are wrong by 1/38 of the distance between the eyes add 4.
    """
    model = np.array(MEAN_FACE)
    affine = np.swapaxes(landmarks - landmarks.mean(axis=1, keepdims=True), 1, 2) @ np.linalg.pinv(
        model - model.mean(axis=0)).T
    u, _, v = np.linalg.svd(affine, full_matrices=False)
    x, y = np.swapaxes(u @ v, 0, 1)  # image rows of the rotation; axes: right, down, towards the camera
    z = np.cross(x, y)
    return np.degrees(np.column_stack([np.arcsin(np.clip(-z[:, 0], -1, 1)), np.arctan2(z[:, 1], z[:, 2]),
                                       np.arctan2(y[:, 0], x[:, 0])]))


@dataclass(frozen=True)
class Crop:
    """An aligned face. image: (size, size, 3) BGR; scale: its pixels for one of the source image, above 1 it was
    enlarged; padded: share of it that lies outside the source image, black; sharpness: variance of its Laplacian."""

    image: np.ndarray
    scale: float
    padded: float
    sharpness: float


def template(settings: CropSettings) -> np.ndarray:
    """(5, 2) landmarks in a crop of the settings' size: the template about its centre, made smaller by the margin."""
    return ((np.array(TEMPLATE) - 50) / (1 + 2 * settings.margin) + 50) * (settings.size / 100)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) matrix [s R | t] that maps points (n, 2) onto others with the least squared error. In complex numbers it
    is target = a source + b with a = s e^(i angle), so it has the closed form of a line's fit."""
    p, q = (points @ np.array([1, 1j]) for points in (source, target))
    p0, q0 = p.mean(), q.mean()
    a = np.vdot(p - p0, q - q0) / np.vdot(p - p0, p - p0).real
    b = q0 - a * p0
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def square_matrix(box: tuple[float, ...], settings: CropSettings) -> np.ndarray:
    """(2, 3) matrix that maps the square around a box (x, y, width, height), with its margin, to the crop."""
    x, y, width, height = box
    side = max(width, height) * (1 + 2 * settings.margin)
    scale = settings.size / side
    return np.array([[scale, 0, scale * (side / 2 - x - width / 2)], [0, scale, scale * (side / 2 - y - height / 2)]])


def crop_face(image: np.ndarray, face: Detection, settings: CropSettings, points: np.ndarray | None = None) -> Crop:
    """Crop a face out of an (H, W, 3) BGR image; landmarks that nearly coincide fall back on the square. points: (5, 2)
    where the landmarks shall lie, other than the template."""
    landmarks = np.array(face.landmarks)
    spread = np.linalg.norm(landmarks - landmarks.mean(axis=0), axis=1).max()
    if settings.align == "similarity" and spread > 1e-3 * max(face.box[2:]):
        matrix = similarity(landmarks, template(settings) if points is None else points)
    else:
        matrix = square_matrix(face.box, settings)
    return warp(image, matrix, settings.size)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> Crop:
    """Map an image by a similarity (2, 3) to a square of `size` pixels, black outside the image. In the matrix, a
    pixel's centre is at half-integers, so that it holds at any scale. Before a reduction, pixels are averaged: sampling
    alone would alias."""
    cv2 = require_opencv()
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    corners = inverse @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
    height, width = image.shape[:2]
    left, top = np.maximum(np.floor(corners.min(axis=1)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=1)).astype(int) + 2, (width, height))
    if right <= left or bottom <= top:
        return Crop(np.zeros((size, size, 3), np.uint8), scale, 1.0, 0.0)
    region, factor = image[top:bottom, left:right], np.ones(2)
    matrix = matrix + np.column_stack([np.zeros((2, 2)), matrix[:, :2] @ (left, top)])
    if scale < 0.75:
        small = tuple(max(1, round(side * scale)) for side in (right - left, bottom - top))
        factor = np.array(small) / (right - left, bottom - top)
        region = cv2.resize(region, small, interpolation=cv2.INTER_AREA)
    linear = matrix[:, :2] / factor
    move = np.column_stack([linear, matrix[:, 2] + linear @ (0.5, 0.5) - 0.5])
    crop = cv2.warpAffine(region, move, (size, size), flags=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR)
    padded = 0.0
    if (corners < 0).any() or (corners > [[width], [height]]).any():
        line = (np.arange(32) + 0.5) * (size / 32)  # a grid of 32 x 32 points tells how much of it lies outside
        x, y = inverse[:, :2] @ np.stack(np.meshgrid(line, line)).reshape(2, -1) + inverse[:, 2:]
        padded = float(((x < 0) | (y < 0) | (x > width) | (y > height)).mean())
    edges = cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.CV_16S)
    return Crop(crop, scale, padded, cv2.meanStdDev(edges)[1].item() ** 2)


def encode(crop: Crop, settings: CropSettings) -> bytes:
    """Encode a crop as a PNG or JPEG file."""
    cv2 = require_opencv()
    if settings.jpeg:
        return cv2.imencode(settings.suffix, crop.image, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg])[1].tobytes()
    return _png(cv2.cvtColor(crop.image, cv2.COLOR_BGR2RGB))


def _png(image: np.ndarray) -> bytes:
    """An (H, W, 3) RGB image as a PNG file, each line less the one above it (ISO/IEC 15948). OpenCV and Pillow compress
    with zlib, which takes more than twice the time of all this."""
    from isal import isal_zlib

    height, width, _ = image.shape
    lines = np.full((height, 1 + 3 * width), 2, np.uint8)  # 2: the filter "up"
    lines[:, 1:] = image.reshape(height, -1)
    lines[1:, 1:] -= lines[:-1, 1:].copy()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks)
