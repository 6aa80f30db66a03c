"""Checkpoint files: ours and the original's, damaged, and pickles that were written to do harm."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest import mock

import torch

from fuzz.damage import damaged
from fuzz.subject import SERVED, Subject, reason_of
from fuzz.values import altered
from model.checkpoint import load_model, save_model
from model.config import VARIANTS, UpdateRule
from model.mixformer import MixFormer
from model.official import CheckpointError

_TINY = VARIANTS["mixvit_tiny"]
NANO = replace(
    _TINY, name="nano", stages=(replace(_TINY.stages[0], dim=8, heads=1, depth=1),), template_size=32, search_size=64, head_channels=16
)  # fmt: skip
_LENGTH_BYTES = 8
_OPCODES = [
    bytes([code])
    for code in b"()0123.IJKLMNRSTUVX]bcdeghijloqrstu}\x80\x81\x85\x86\x87\x88\x89\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"
]


class File(bytes):
    """A file's content; `suffix` says what it claims to be."""

    suffix = ".pth"


class Ours(File):
    """A file of ours."""

    suffix = ".safetensors"


@contextmanager
def known() -> Iterator[None]:
    """The network that the files are of is the only variant: to look for others takes longer than all the rest."""
    with mock.patch.dict(VARIANTS, {NANO.name: NANO}, clear=True):
        yield


@cache
def _ours() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ours.safetensors"
        save_model(path, MixFormer(NANO).eval(), UpdateRule(), {"recipe": "none"})
        return path.read_bytes()


@cache
def _official(is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    state = {"epoch": 5, "net": MixFormer(NANO).eval().state_dict()}
    torch.save(state, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def file(chance: Random) -> File:
    """A checkpoint with something wrong, somewhere between its outermost bytes and its innermost value."""
    match chance.randrange(6):
        case 0:
            return Ours(damaged(chance, _ours()))
        case 1:
            return _ours_with_header(chance)
        case 2:
            return File(damaged(chance, _official(chance.random() < 0.5)))
        case 3:
            return _rewritten(chance, damaged(chance, _pickle()))
        case 4:
            return _rewritten(chance, program(chance))
        case _:
            return File(program(chance))


def _ours_with_header(chance: Random) -> File:
    data = _ours()
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES:end])
    if chance.random() < 0.5:
        rule = altered(chance, json.loads(header["__metadata__"]["update_rule"]))
        text = json.dumps(rule, default=str) if chance.random() < 0.9 else "[" * 100_000
        header["__metadata__"]["update_rule"] = text
    else:
        header = altered(chance, header)
    written = json.dumps(header, default=str).encode()
    return Ours(len(written).to_bytes(_LENGTH_BYTES, "little") + written + data[end:])


@cache
def _pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_official(is_zip=True))) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return archive.read(name)


def _rewritten(chance: Random, content: bytes) -> File:
    """The official archive with another pickle in it, and sometimes another name or compression of an entry."""
    buffer = io.BytesIO()
    compression = chance.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,))
    with zipfile.ZipFile(io.BytesIO(_official(is_zip=True))) as source, zipfile.ZipFile(buffer, "w", compression) as archive:
        for entry in source.namelist():
            if chance.random() < 0.99:
                archive.writestr(entry, content if entry.endswith("/data.pkl") else source.read(entry))
    return File(buffer.getvalue())


def program(chance: Random) -> bytes:
    """A pickle that no pickler writes: opcodes at random, and those that call, set and remember."""
    pieces = [
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cbuiltins\neval\n", b"ctorch\nSize\n",
        b"cposix\nsystem\n", b"X\x03\x00\x00\x00net", b"X\x05\x00\x00\x00items", b"X\x03\x00\x00\x00get", b"}", b")", b"R", b"b",
        b"s", b"N", b"\x81", b"\x86", b"(", b"t", b"u", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"J\xff\xff\xff\x7f",
        b"\x8a\x04\xff\xff\xff\x7f", b"\x8e" + (2**40).to_bytes(8, "little"), b"Q", pickle.dumps({"net": OrderedDict()})[:-1],
    ]  # fmt: skip
    body = chance.choices(pieces + _OPCODES, k=chance.randint(1, 12))
    return b"\x80\x02" + b"".join(body) + b"."


def judge(content: File) -> str:
    """A network, or the one error of a file that cannot be loaded."""
    with TemporaryDirectory() as folder, known():
        path = Path(folder) / f"file{content.suffix}"
        path.write_bytes(content)
        try:
            load_model(path)
        except CheckpointError as error:
            return reason_of(error)
    return SERVED


CHECKPOINTS = Subject("checkpoint files", file, judge)
