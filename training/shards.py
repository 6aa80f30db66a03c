"""Tar shards of training pictures: every file stays in memory as it was encoded, and is decoded when it is asked for."""

import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from model.crop import Image
from model.geometry import Box
from training.drawn import Drawn, read_drawn
from training.kinds import has_strings, kind_of

DATA_VARIABLE = "MIXFORMER_DATA"
SHARDS = ("davis", "uavdt", "vehicles", "road_signs", "small_boxed", "imagenet_sample", "bsds", "camvid", "tiny_imagenet")
PATCHES = "tiny_imagenet"  # the shard of small pictures with an object in each

# The rule of the split. Videos are held out whole: two frames of one video are nearly the same picture.
VALIDATION_SEQUENCES = frozenset({"davis/libby", "davis/car-shadow", "uavdt/S0601"})
VALIDATION_ONE_IN = 50  # of the single pictures, chosen by a hash of their name
_ONE_DRIVE = frozenset({"camvid"})  # shards that are frames of a few streets, though their index names no video
_STRING = 5  # pixels; what is thinner is a string


class ShardError(ValueError):
    """A shard is missing or its index is not what it should be."""


@dataclass(frozen=True)
class Record:
    """One picture of a shard. `boxes` are pixels of the picture; `sequence` is "" where it belongs to no video,
    `kind` what its boxes show, "" where that is not known, `is_drawn` whether they were drawn here (training/drawn.py) and `track`
    which target of its video they are then, "" for a picture of its own. A picture with more than one kind drawn has a record for each."""

    shard: str
    image: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    sequence: str
    frame: int
    mask: str
    kind: str = ""
    is_drawn: bool = False
    track: str = ""

    @property
    def scene(self) -> tuple[str, str]:
        """The same for pictures that may show the same targets: the frames of a video, and all of a shard that is one drive."""
        return self.shard, self.sequence or ("" if self.shard in _ONE_DRIVE else self.image)

    @property
    def is_validation(self) -> bool:
        """Whether the picture is held out. Depends on its name alone, so that it never moves between the lists."""
        if self.sequence:
            return f"{self.shard}/{self.sequence}" in VALIDATION_SEQUENCES
        return zlib.crc32(f"{self.shard}/{self.image}".encode()) % VALIDATION_ONE_IN == 0


class Shards:
    """The files of several shards, and a record for each picture."""

    def __init__(
        self, folder: Path, names: Iterable[str] = SHARDS, drawn: Mapping[tuple[str, str], Sequence[Drawn]] | None = None
    ) -> None:
        """Reads `folder/NAME.tar` for every name; `drawn`: boxes drawn on them, those of training/drawn.py unless told.

        Raises ShardError where a shard is missing or has no usable index.
        """
        self.records: list[Record] = []
        self._files: dict[tuple[str, str], bytes] = {}
        self._drawn = read_drawn() if drawn is None else drawn
        for name in names:
            self._read(folder / f"{name}.tar", name)

    def training(self) -> list[Record]:
        """The pictures that may be trained on."""
        return [record for record in self.records if not record.is_validation]

    def validation(self) -> list[Record]:
        """The pictures held out."""
        return [record for record in self.records if record.is_validation]

    def image(self, record: Record) -> Image:
        """The picture, uint8 [H, W, 3] in RGB."""
        return self._decode(record.shard, record.image, cv2.IMREAD_COLOR_RGB)

    def mask(self, record: Record) -> Image:
        """The object's mask, uint8 [H, W], 255 on the object, without strings that it hangs on."""
        mask = self._decode(record.shard, record.mask, cv2.IMREAD_GRAYSCALE)
        mask = np.where(mask > 0, np.uint8(255), np.uint8(0))
        return _without_strings(mask) if has_strings(record.sequence) else mask

    def _read(self, path: Path, shard: str) -> None:
        try:
            with tarfile.open(path) as tar:
                files = {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
        except (OSError, tarfile.TarError) as error:
            raise ShardError(f"cannot read {path}: {error}") from error
        if "index.jsonl" not in files:
            raise ShardError(f"{path} has no index.jsonl")
        own = [_record(shard, line) for line in files["index.jsonl"].splitlines()]
        records = [each for record in own for each in _with_drawn(record, self._drawn.get((shard, record.image), ()))]
        missing = {name for record in records for name in (record.image, record.mask) if name} - files.keys()
        if missing:
            raise ShardError(f"{path} lacks {len(missing)} pictures of its index, {min(missing)} for one")
        self._files.update({(shard, name): data for name, data in files.items()})
        self.records.extend(
            self._of_body(record) if has_strings(record.sequence) and record.mask else record for record in records
        )

    def _of_body(self, record: Record) -> Record:
        """The picture with the box of its mask without strings."""
        return replace(record, boxes=(Box(*cv2.boundingRect(self.mask(record))),))

    def _decode(self, shard: str, name: str, flags: int) -> Image:
        decoded = cv2.imdecode(np.frombuffer(self._files[shard, name], np.uint8), flags)
        if decoded is None:
            raise ShardError(f"{shard}/{name} is not a picture")
        return decoded.astype(np.uint8, copy=False)


def data_folder(given: str | None) -> Path:
    """The folder of the data: what was given, else the environment's MIXFORMER_DATA, else `data`."""
    return Path(given or os.environ.get(DATA_VARIABLE) or "data")


def _record(shard: str, line: bytes) -> Record:
    try:
        entry = json.loads(line)
        sequence = entry.get("sequence", "")
        return Record(
            shard=shard, image=entry["image"], width=entry["width"], height=entry["height"],
            boxes=tuple(Box(*box) for box in entry["boxes"]), sequence=sequence,
            frame=entry.get("frame", 0), mask=entry.get("mask", ""), kind=kind_of(shard, sequence, entry.get("class", "")),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{shard}/index.jsonl: {error!r} in {line[:80]!r}") from error


def _without_strings(mask: Image) -> Image:
    """The largest part of a mask that is no string."""
    count, parts, figures, _ = cv2.connectedComponentsWithStats(
        cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((_STRING, _STRING)))
    )
    largest = 1 + int(np.argmax(figures[1:, cv2.CC_STAT_AREA])) if count > 1 else 0
    return np.where(parts == largest, np.uint8(255), np.uint8(0)) if largest else mask


def _with_drawn(record: Record, drawn: Sequence[Drawn]) -> Iterator[Record]:
    """The picture, with the boxes drawn on it if it is the one that they were drawn on: a picture that has boxes gets tracks alone."""
    fitting = [each for each in drawn if (each.width, each.height) == (record.width, record.height)]
    stills = [] if record.boxes else [each for each in fitting if not each.track]
    if not stills:
        yield record
    for each in stills:
        yield replace(record, boxes=each.boxes, kind=each.kind, is_drawn=True)
    for each in fitting:
        if each.track:
            frame = int(Path(record.image).stem)
            yield replace(record, boxes=each.boxes, kind=each.kind, is_drawn=True, track=each.track, frame=frame, mask="")
