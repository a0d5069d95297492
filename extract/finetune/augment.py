"""Changes of a batch of training faces, drawn anew in each epoch, on whatever device the faces are.

All random numbers come from the generators that `seeded_part` sets, so they depend on the place in the training alone.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from twofold.extract.finetune.settings import Settings


@contextmanager
def own_random_numbers() -> Iterator[None]:
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


def rand_augmented(pictures: torch.Tensor, settings: Settings, mean: tuple[float, ...]) -> torch.Tensor:
    """timm's RandAugment of (B, S, S, 3) uint8 pictures, on the CPU; as they are where the settings name none."""
    if not settings.rand_augment:
        return pictures
    from timm.data.auto_augment import rand_augment_transform

    fill = tuple(min(255, round(255 * value)) for value in mean)
    change = rand_augment_transform(settings.rand_augment, {"img_mean": fill})
    return torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(picture.numpy()))) for picture in pictures]))


def moved(pictures: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(B, 3, S, S) float pictures mirrored, shifted, rotated and cropped, each by its own draw; bilinear."""
    count = len(pictures)
    if not (settings.flip or settings.shift or settings.rotate or settings.crop < 1):
        return pictures
    draw = torch.rand(6, count)
    mirror = 1 - 2 * (draw[0] < settings.flip).float()
    angle = (2 * draw[1] - 1) * math.radians(settings.rotate)
    side = (settings.crop + (1 - settings.crop) * draw[2]).sqrt()
    stretch = torch.exp((2 * draw[3] - 1) * math.log(4 / 3) / 2) if settings.crop < 1 else torch.ones(count)
    room = (1 - side).clamp_min(0)
    shift = [(2 * draw[place] - 1) * (room + 2 * settings.shift) for place in (4, 5)]
    wide, high = (side * stretch).clamp_max(1.0), (side / stretch).clamp_max(1.0)
    cosine, sine = angle.cos(), angle.sin()
    theta = torch.stack([torch.stack([mirror * wide * cosine, -high * sine, shift[0]], 1),
                         torch.stack([mirror * wide * sine, high * cosine, shift[1]], 1)], 1)
    grid = functional.affine_grid(theta.to(pictures), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def jittered(pictures: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(B, 3, S, S) pixels in 0..255 made brighter or darker, and more or less contrasty."""
    if not settings.jitter:
        return pictures
    brightness, contrast = 1 + (2 * torch.rand(2, len(pictures), 1, 1, 1) - 1).to(pictures) * settings.jitter
    centre = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return (((pictures - centre) * contrast + centre) * brightness).clamp(0, 255)


def erased(pictures: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Random erasing of normalised pictures, in place: noise in a rectangle (arXiv 1708.04896), timm's."""
    if settings.erasing:
        from timm.data.random_erasing import RandomErasing

        RandomErasing(settings.erasing, mode="pixel", device=str(pictures.device))(pictures)
    return pictures


def mixed(pictures: torch.Tensor, targets: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup or CutMix of a batch with itself in reverse order; targets (B, C) are mixed alike. timm's."""
    if not (settings.mixup or settings.cutmix) or len(pictures) % 2:
        return pictures, targets
    from timm.data.mixup import Mixup

    mixup = Mixup(settings.mixup, settings.cutmix, num_classes=targets.shape[1], label_smoothing=0.0, multi_label=True)
    return mixup(pictures, targets)
