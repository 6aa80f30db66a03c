"""What a camera does to a picture: colour, blur, low resolution, noise. Works on finished crops, where pixels are few."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.crop import Image

ColorMatrix = npt.NDArray[np.float32]

_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Augmentation:
    """How strong: `joint` colour changes hit all crops of an example alike, `single` ones each crop on its own. `light` is the share of
    crops taken in quite other light than the rest: a lamp that goes on, a cloud, a tunnel.
    """

    joint_color: float = 0.25
    single_color: float = 0.12
    light: float = 0.2
    grayscale: float = 0.05
    blur: float = 0.12
    low_resolution: float = 0.1
    noise: float = 0.06


def color_matrix(rng: np.random.Generator, strength: float, gray: bool = False) -> ColorMatrix:
    """Brightness, contrast, saturation and a tint as one map [3, 4] of RGB and 1 to RGB."""
    brightness, contrast, saturation = 1.0 + strength * rng.uniform(-1.0, 1.0, 3)
    saturation = 0.0 if gray else saturation
    tint = 1.0 + 0.3 * strength * rng.uniform(-1.0, 1.0, 3) * (not gray)
    mix = saturation * np.eye(3) + (1.0 - saturation) * np.tile(_LUMINANCE, (3, 1))
    linear = brightness * contrast * tint[:, None] * mix
    shift = np.full((3, 1), 110.0 * (1.0 - contrast) * brightness)
    return np.hstack([linear, shift]).astype(np.float32)


def light_matrix(rng: np.random.Generator) -> ColorMatrix:
    """The same scene with up to a sixth or the double of its light, of another colour, as a map [3, 4] of RGB and 1 to RGB."""
    gain = 2.0 ** rng.uniform(-2.5, 1.0) * 2.0 ** rng.uniform(-0.2, 0.2, 3)
    return np.hstack([np.diag(gain), np.zeros((3, 1))]).astype(np.float32)


def chain(first: ColorMatrix, second: ColorMatrix) -> ColorMatrix:
    """The map [3, 4] that does `first`, then `second`."""
    linear = second[:, :3] @ first[:, :3]
    shift = second[:, :3] @ first[:, 3:] + second[:, 3:]
    return np.hstack([linear, shift])


def photograph(crop: Image, color: ColorMatrix, rng: np.random.Generator, settings: Augmentation) -> Image:
    """The crop in other colours and through a worse camera. What is black because it lies outside the frame stays black."""
    outside = cv2.inRange(crop, (0, 0, 0), (0, 0, 0))
    changed = _degrade(cv2.transform(crop, color).astype(np.uint8, copy=False), rng, settings)
    return cv2.bitwise_and(changed, changed, mask=cv2.bitwise_not(outside)).astype(np.uint8, copy=False)


def _degrade(crop: Image, rng: np.random.Generator, settings: Augmentation) -> Image:
    blur, low_resolution, noise = rng.random(3)
    if low_resolution < settings.low_resolution:
        crop = _lower_resolution(crop, rng)
    if blur < settings.blur:
        crop = _motion_blur(crop, rng) if rng.random() < 0.5 else _soften(crop, rng)
    if noise < settings.noise:
        crop = _add_noise(crop, rng)
    return crop


def _lower_resolution(crop: Image, rng: np.random.Generator) -> Image:
    height, width = crop.shape[:2]
    share = rng.uniform(0.3, 0.8)
    small = cv2.resize(crop, (int(width * share), int(height * share)), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert decoded is not None  # we encoded it ourselves
        small = decoded
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _motion_blur(crop: Image, rng: np.random.Generator) -> Image:
    length = crop.shape[0] * rng.uniform(0.015, 0.045)
    angle = rng.uniform(0.0, np.pi)
    side = int(length) // 2 * 2 + 3
    kernel = np.zeros((side, side), np.float32)
    middle = side // 2
    reach = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    start, end = np.rint(middle - reach).astype(int), np.rint(middle + reach).astype(int)
    cv2.line(kernel, start.tolist(), end.tolist(), 1.0, 1)
    return cv2.filter2D(crop, -1, kernel / kernel.sum()).astype(np.uint8, copy=False)


def _soften(crop: Image, rng: np.random.Generator) -> Image:
    sigma = crop.shape[0] * rng.uniform(0.002, 0.01)
    return cv2.GaussianBlur(crop, (0, 0), sigma).astype(np.uint8, copy=False)


def _add_noise(crop: Image, rng: np.random.Generator) -> Image:
    noise = rng.standard_normal(crop.shape, np.float32) * np.float32(rng.uniform(2.0, 12.0))
    return np.clip(crop + noise, 0, 255).astype(np.uint8)
