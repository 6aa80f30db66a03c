"""A session as values that can leave the process: what a resume token and the store hold of it.

The state is msgpack without its pictures, which it names by their content: a template that the store already has is not
written again. Nothing in it is derived, so whoever reads it goes on with the very same boxes.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from model.config import MAX_ONLINE_TEMPLATES, ModelConfig
from model.crop import LARGEST_SIDE, Image
from model.geometry import crop_window
from model.target import TargetState
from service.front.tracking.session import Session, SessionState

VERSION = 1
"""Of the layout; a server reads no other."""

_NAME_BYTES = 16
_CHANNELS = 3
# Of a variant that a message names.
_NAME_CHARACTERS = 64
_REASON_CHARACTERS = 300
# They go on to grow, and the API's counts end at twice that.
_LARGEST_COUNT = 2**31 - 1
_LARGEST_NUMBER = 2**64 - 1

Crops = Mapping[bytes, Image]


class SnapshotError(ValueError):
    """A snapshot that no session here can go on from; the message says why."""


class Snapshot(NamedTuple):
    """`state` is msgpack; `crops` are the pictures that it names (uint8 [T, T, 3])."""

    state: bytes
    crops: dict[bytes, Image]


class _Head(msgspec.Struct, frozen=True):
    """What must fit before a target is looked at."""

    variant: str
    template_size: int


class _State(_Head, frozen=True):
    session: SessionState


class Snapshots:
    """Takes and reads snapshots for the network that runs here."""

    def __init__(self, model: ModelConfig, max_targets: int) -> None:
        self._model = model
        self._max_targets = max_targets
        # Names of the crops that each session had last: hashing one takes 0.1 ms.
        self._named: WeakKeyDictionary[Session, Crops] = WeakKeyDictionary()
        self._head = msgspec.msgpack.Decoder(_Head)

    def take(self, session: Session) -> Snapshot:
        """The session as it is after its last result."""
        names = {id(crop): name for name, crop in self._named.get(session, {}).items()}
        crops: dict[bytes, Image] = {}

        def named(crop: Image) -> bytes:
            name = names.get(id(crop)) or name_of(crop.data)
            crops[name] = crop
            return name

        state = _State(self._model.name, self._model.template_size, session.state)
        encoded = msgspec.msgpack.encode(state, enc_hook=named)
        self._named[session] = crops
        return Snapshot(encoded, crops)

    def read(self, state: bytes, crops: Iterable[bytes]) -> SessionState:
        """The session that a snapshot holds. Raises SnapshotError."""
        pictures = {name_of(crop): crop for crop in crops}
        try:
            self._check_head(self._head.decode(state))

            def picture(kind: type, name: Any) -> Image:
                size = self._model.template_size
                return np.frombuffer(pictures[name], np.uint8).reshape(size, size, _CHANNELS)

            session = msgspec.msgpack.decode(state, type=_State, dec_hook=picture).session
            self._check(session)
        except SnapshotError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise SnapshotError(f"not a session: {type(error).__name__}: {error}"[:_REASON_CHARACTERS]) from error
        return session

    def _check_head(self, head: _Head) -> None:
        if (head.variant, head.template_size) != (self._model.name, self._model.template_size):
            found = f"{head.variant[:_NAME_CHARACTERS]} with templates of {head.template_size}"
            raise SnapshotError(f"it is of {found}, here runs {self._model.name} with {self._model.template_size}")

    def _check(self, session: SessionState) -> None:
        if len(session.targets) > self._max_targets:
            raise SnapshotError(f"{len(session.targets)} targets are over max_targets_per_session {self._max_targets}")
        if not 0 <= session.last_frame_number <= _LARGEST_NUMBER:
            raise SnapshotError(f"last frame number {session.last_frame_number} is outside 0 to {_LARGEST_NUMBER}")
        for target in session.targets.values():
            check_target(target, session.options.search_factor)


def check_target(state: TargetState, search_factor: float) -> None:
    """Raises ValueError where a target's numbers are none that tracking can lead to."""
    for box in filter(None, (state.report.box, state.sought)):
        if crop_window(box, search_factor).side > LARGEST_SIDE:
            raise ValueError(f"box {tuple(box)} is too large")
    scores = (state.best_score, state.report.score or 0.0)
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"scores {scores} are not finite")
    if not 1 <= len(state.online) <= MAX_ONLINE_TEMPLATES:
        raise ValueError(f"{len(state.online)} online templates")
    if not 0 <= state.next_replaced < len(state.online):
        raise ValueError(f"online template {state.next_replaced} of {len(state.online)} is next")
    counts = (state.frames, state.low_frames, state.report.frames_since_tracked)
    if not all(0 <= count <= _LARGEST_COUNT for count in counts):
        raise ValueError(f"counts {counts} are outside 0 to {_LARGEST_COUNT}")


def name_of(crop: bytes | memoryview) -> bytes:
    """16 bytes that name a picture by its content."""
    return hashlib.blake2b(crop, digest_size=_NAME_BYTES).digest()
