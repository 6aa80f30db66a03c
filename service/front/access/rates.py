"""How fast one client may send frames."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.config import Limits
from service.errors import RateLimited

# A client may send this much at once, as seconds of its limit; after that, as fast as the limit.
_BURST_SECONDS = 1.0


@dataclass
class _Allowance:
    """A limit of so much a second. For each client, when it may again send a whole burst; who may now is left out."""

    name: str
    per_second: float
    whole_at: dict[str, float] = field(default_factory=dict)

    def wait_seconds(self, client: str, now: float) -> float:
        """Until the client may send again; 0: now."""
        return max(0.0, self.whole_at.get(client, now) - now - _BURST_SECONDS) if self.per_second else 0.0

    def take(self, client: str, amount: int, now: float) -> None:
        """What is larger than what is left counts whole, and is waited for afterwards: no frame is too large for ever."""
        if self.per_second:
            self.whole_at[client] = max(now, self.whole_at.get(client, now)) + amount / self.per_second

    def forget(self, now: float) -> None:
        """Clients that may send a whole burst."""
        self.whole_at = {client: at for client, at in self.whole_at.items() if at > now}


class Rates:
    """Frames and bytes a second of every client, over all its sessions. Refused frames do not count."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._forgotten_at = monotonic()
        self._allowances = {
            "frames": _Allowance("max_client_frames_per_second", limits.max_client_frames_per_second),
            "bytes": _Allowance("max_client_bytes_per_second", limits.max_client_bytes_per_second),
        }

    def take(self, client: str, size: int) -> None:
        """A frame of `size` bytes. Raises RateLimited where the client has to wait, with how long."""
        now = self._monotonic()
        self._forget(now)
        for allowance in self._allowances.values():
            wait = allowance.wait_seconds(client, now)
            if wait > 0:
                limit = f"{allowance.name} {allowance.per_second:g}"
                raise RateLimited(f"client {client} is over {limit}: try again in {wait:.3f} s", retry_seconds=wait)
        self._allowances["frames"].take(client, 1, now)
        self._allowances["bytes"].take(client, size, now)

    def _forget(self, now: float) -> None:
        if now - self._forgotten_at > _BURST_SECONDS:
            self._forgotten_at = now
            for allowance in self._allowances.values():
                allowance.forget(now)
