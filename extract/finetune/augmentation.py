"""Augmentation of a batch of training images, drawn anew in each epoch, on whatever device the images are.

All random numbers come from the generators that `seed_part` sets, so they depend on the place in the training alone.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.finetune.settings import Settings


@contextmanager
def own_random_state() -> Iterator[None]:
    """Inside, the global generators of Python, NumPy and torch may be seeded; afterwards they are as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def seed_part(seed: int, *place: int) -> None:
    """Seed what timm and torch draw from, by the place in the training: epoch, step, part of the step."""
    words = np.random.SeedSequence([seed, *place]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def augment(images: torch.Tensor, targets: Sequence[torch.Tensor], settings: Settings, preprocessing: Preprocessing,
            device: torch.device) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """(B, S, S, 3) uint8 images, augmented and normalised: (B, 3, S, S) channels-last; and what each target's (B, E)
    teaches of them."""
    if settings.rand_augment:
        from timm.data.auto_augment import rand_augment_transform

        change = rand_augment_transform(settings.rand_augment, {"img_mean": preprocessing.mean_colour})
        images = torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(image.numpy()))) for image in images]))
    pixels = _move(images.to(device, non_blocking=True).permute(0, 3, 1, 2).float(), settings)
    if settings.jitter:  # of brightness and contrast
        drawn = 2 * torch.rand(2, len(pixels), 1, 1, 1) - 1
        brightness, contrast = 1 + drawn.to(pixels) * settings.jitter
        centre = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = pixels.sub_(centre).mul_(contrast).add_(centre).mul_(brightness).clamp_(0, 255)  # a copy already
    pixels, side_by_side = preprocessing.normalize(pixels), torch.cat(list(targets), 1).to(device)
    if settings.erasing:
        from timm.data.random_erasing import RandomErasing  # arXiv 1708.04896

        RandomErasing(settings.erasing, mode="pixel", device=str(pixels.device))(pixels)
    if (settings.mixup or settings.cutmix) and len(pixels) % 2 == 0:
        from timm.data.mixup import Mixup

        mixup = Mixup(settings.mixup, settings.cutmix, num_classes=side_by_side.shape[1], label_smoothing=0.0,
                      multi_label=True)
        pixels, side_by_side = mixup(pixels, side_by_side)
    widths = [target.shape[1] for target in targets]
    return pixels.contiguous(memory_format=torch.channels_last), side_by_side.split(widths, 1)


def _move(images: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(B, 3, S, S) float images mirrored, shifted, rotated and cropped, each by its own draw; bilinear."""
    if not (settings.flip or settings.shift or settings.rotate or settings.crop < 1):
        return images
    draw = torch.rand(6, len(images))
    mirror = 1 - 2 * (draw[0] < settings.flip).float()
    angle = (2 * draw[1] - 1) * math.radians(settings.rotate)
    side = (settings.crop + (1 - settings.crop) * draw[2]).sqrt()
    stretch = torch.exp((2 * draw[3] - 1) * math.log(4 / 3) / 2) if settings.crop < 1 else torch.ones(len(images))
    shift = (2 * draw[4:] - 1) * ((1 - side).clamp_min(0) + 2 * settings.shift)
    wide, high = (side * stretch).clamp_max(1.0), (side / stretch).clamp_max(1.0)
    cosine, sine = angle.cos(), angle.sin()
    theta = torch.stack([torch.stack([mirror * wide * cosine, -high * sine, shift[0]], 1),
                         torch.stack([mirror * wide * sine, high * cosine, shift[1]], 1)], 1)
    grid = functional.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
