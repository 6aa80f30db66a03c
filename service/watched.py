"""Files that are read again when they change: certificates, tokens and keys are renewed while the service runs."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""A change is seen at most this much later."""

_log = logging.getLogger(__name__)

# Of each file: when it was written, its size and its inode.
_Stamp = tuple[tuple[int, int, int], ...]


class Watched(Generic[T]):
    """What some files hold, as one value; the same object until they change.

    Whoever asks for the value looks after the files: no thread, no timer. A change that cannot be read or makes no sense is
    logged once, without the content, and the value stays what it was.
    """

    def __init__(self, paths: tuple[Path, ...], parse: Callable[..., T], clock: Callable[[], float] = time.monotonic) -> None:
        """`parse` takes the bytes of each file. Raises OSError where one cannot be read, and what `parse` raises."""
        self._paths = paths
        self._parse = parse
        self._clock = clock
        self._looked_at = clock()
        self._stamp = self._look()
        self._value = self._read()

    @property
    def value(self) -> T:
        """The newest value. Safe in any thread: at worst two of them read the same change."""
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._renew()
        return self._value

    def _renew(self) -> None:
        names = ", ".join(map(str, self._paths))
        stamp = self._look()
        if stamp == self._stamp:
            return
        # Noted before the files are read: what is written meanwhile is another change.
        self._stamp = stamp
        try:
            self._value = self._read()
        except (OSError, ValueError) as error:
            _log.error("%s changed and cannot be used, the former content stays: %s", names, error)
        else:
            _log.info("%s changed and is in use", names)

    def _read(self) -> T:
        return self._parse(*(path.read_bytes() for path in self._paths))

    def _look(self) -> _Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int]:
    """Zeros for a file that is not there: that is a change too."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
