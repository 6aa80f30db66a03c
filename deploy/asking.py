"""What the scripts here ask of a running Prometheus, and how they say that an answer is wrong."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

SEEN_SECONDS = 60.0


class CheckFailed(Exception):
    """Something is not as it should be; the message says what."""


def require(is_met: bool, message: str) -> None:
    """Raises CheckFailed with the message."""
    if not is_met:
        raise CheckFailed(message)


class Prometheus(NamedTuple):
    """A Prometheus by its URL."""

    url: str

    def series(self, query: str) -> list[float]:
        """The values that a query has at this moment; none too where Prometheus is still starting."""
        try:
            found = self._get(f"query?{urllib.parse.urlencode({'query': query})}")["result"]
        except OSError:
            return []
        return [float(each["value"][1]) for each in found]

    def ask(self, query: str) -> float | None:
        """The one value of a query, None where it has none yet."""
        return next(iter(self.series(query)), None)

    def wait_until(self, query: str, is_met: Callable[[float | None], bool], seconds: float = SEEN_SECONDS) -> None:
        """Ask until the answer will do. Raises CheckFailed."""
        deadline = time.monotonic() + seconds
        while not is_met(value := self.ask(query)):
            require(time.monotonic() < deadline, f"{query} is {value} after {seconds:g} s")
            time.sleep(0.5)

    def rules(self) -> list[dict[str, Any]]:
        """The rules that it has loaded."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def names(self) -> set[str]:
        """Of all metrics that it has scraped or recorded."""
        return set(self._get("label/__name__/values"))

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]
