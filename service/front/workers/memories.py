"""Which memories of templates the front's targets use on one worker."""

from collections import Counter
from typing import Protocol
from weakref import WeakKeyDictionary

from model.crop import Image


class MemorySource(Protocol):
    """What the engine needs of a target."""

    @property
    def memory_key(self) -> bytes:
        """Names the templates: equal keys, equal crops."""

    @property
    def templates(self) -> tuple[Image, ...]:
        """The crops the memory is made of: the template, then the online templates, uint8 RGB [T, T, 3] each."""


class Memories:
    """Counts targets by memory: those that look at the same picture share one."""

    def __init__(self) -> None:
        # The key each living target came with last, and how many targets came with each key.
        self._counted: WeakKeyDictionary[MemorySource, bytes] = WeakKeyDictionary()
        self._holders: Counter[bytes] = Counter()

    def use(self, target: MemorySource) -> None:
        """The target's memory is about to be used. Counts once for each key that a target comes with."""
        if self._counted.get(target) != target.memory_key:
            self._counted[target] = target.memory_key
            self._holders[target.memory_key] += 1

    def release(self, memory_key: bytes) -> bool:
        """One target has done with this memory; whether it was the last."""
        self._holders[memory_key] -= 1
        is_last = self._holders[memory_key] <= 0
        if is_last:
            del self._holders[memory_key]
        return is_last
