"""The metrics of several fronts as one endpoint: prometheus_client's multiprocess mode, served by the parent.

Every front keeps its values in files of its own in one folder; a scrape adds the files up. Counters and histograms of a front
that died stay in the sum, however it died, so that no counter falls; its gauges go with it.
"""

from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.config import Address

# Read by prometheus_client when it is imported.
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Totals:
    """The sum over all fronts that were started with `environment`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = str(folder)

    @property
    def environment(self) -> dict[str, str]:
        """What a front is started with in order to be counted."""
        return {_VARIABLE: self._folder}

    def serve(self, address: Address) -> int:
        """Export from a thread, for as long as the process lives; gives the port. Raises OSError where it cannot be had."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
        server, _ = start_http_server(address.port, address.host, registry)
        return server.server_port

    def forget(self, pid: int) -> None:
        """The front of this process has ended: its gauges go."""
        mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
