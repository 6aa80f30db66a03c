"""Training shards for tests, made here: a red block on smooth pictures without red, so that a crop shows where the target is."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pictures import encoded, scene

from model.crop import Image
from training.shards import Shards

NAMES = ("davis", "vehicles", "bsds")
Picture = tuple[dict[str, object], dict[str, Image]]  # an index entry, and its files
RED = np.array([230, 20, 20], np.uint8)


def write_shards(folder: Path) -> Shards:
    """Two videos with masks (one of them held out), boxed stills and photos, as tars in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = [_frame(name, number) for name in ("swan", "libby") for number in range(8)]
    boxed = [_boxed(number) for number in range(6)]
    photos: list[Picture] = [({"image": f"{n}.jpg", "boxes": []}, {f"{n}.jpg": _background(20 + n)}) for n in range(4)]
    for name, pictures in zip(NAMES, (videos, boxed, photos), strict=True):
        _write(folder / f"{name}.tar", pictures)
    return Shards(folder, NAMES)


def write_patches(folder: Path) -> Shards:
    """The same, and small pictures, every second with its object at the border."""
    write_shards(folder)
    _write(folder / "tiny_imagenet.tar", [_boxed(number, x=60 if number % 2 else 0) for number in range(6)])
    return Shards(folder, (*NAMES, "tiny_imagenet"))


def write_strung(folder: Path, name: str) -> Shards:
    """One frame of a video whose object, 24x16 pixels at (30, 40), hangs on a string two pixels thick from the frame's corner."""
    image, mask = _with_block(1, 30, 40)
    mask[:2, 50:] = mask[:40, 50:52] = 255
    entry: dict[str, object] = {
        "image": "0.png",
        "boxes": [[30, 0, 130, 56]],
        "sequence": name,
        "frame": 0,
        "mask": "0.mask.png",
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "davis.tar", [(entry, {"0.png": image, "0.mask.png": mask})])
    return Shards(folder, ["davis"])


def red_box(crop: Image) -> tuple[float, float, float, float]:
    """Corners of what is red in the crop, in shares of its side; zeros where nothing is."""
    value = crop.astype(int)
    rows, columns = np.nonzero((value[..., 0] > 150) & (value[..., 1] < 90) & (value[..., 2] < 90))
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    side = len(crop)
    return columns.min() / side, rows.min() / side, (columns.max() + 1) / side, (rows.max() + 1) / side


def _background(seed: int) -> Image:
    image = scene(160, 128, seed).copy()
    image[..., 0] //= 3
    return image


def _with_block(seed: int, x: int, y: int) -> tuple[Image, Image]:
    image, mask = _background(seed), np.zeros((128, 160, 3), np.uint8)
    image[y : y + 16, x : x + 24] = RED
    mask[y : y + 16, x : x + 24] = 255
    return image, mask


def _frame(name: str, number: int) -> Picture:
    x, y = 30 + 8 * number, 40 + 2 * number
    image, mask = _with_block(len(name), x, y)
    stem = f"{name}/{number:05d}"
    entry = {"image": f"{stem}.png", "boxes": [[x, y, 24, 16]], "sequence": name, "frame": number, "mask": f"{stem}.mask.png"}
    return entry, {f"{stem}.png": image, f"{stem}.mask.png": mask}


def _boxed(number: int, x: int = 60) -> Picture:
    image, _ = _with_block(40 + number, x, 50)
    return {"image": f"{number}.png", "boxes": [[x, 50, 24, 16]]}, {f"{number}.png": image}


def _write(path: Path, pictures: list[Picture]) -> None:
    index = "\n".join(json.dumps(entry | {"width": 160, "height": 128}) for entry, _ in pictures)
    files: Mapping[str, bytes] = {"index.jsonl": index.encode()} | {
        name: encoded(image, Path(name).suffix) for _, images in pictures for name, image in images.items()
    }
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
