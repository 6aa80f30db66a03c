"""`make deploy-check`: the dashboards against Grafana's own schema, as its foundation SDK has it.

A dashboard is read into the SDK's types and written again: a key that does not come back is none of Grafana's.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def run() -> int:
    """Print what is wrong with each dashboard. The exit code."""
    register_default_plugins()
    faults = 0
    for path in sorted((Path(__file__).parent / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
        unknown = list(differences(dashboard, again))
        print(f"{path.name}: {', '.join(unknown) or 'fits the schema'}")
        faults += len(unknown)
    return 1 if faults else 0


def differences(given: Any, again: Any, place: str = "") -> Iterator[str]:
    """Where `again` lacks or changes what is given."""
    if isinstance(given, dict) and isinstance(again, dict):
        for key, value in given.items():
            yield from differences(value, again.get(key), f"{place}/{key}")
    elif isinstance(given, list) and isinstance(again, list) and len(given) == len(again):
        for number, (left, right) in enumerate(zip(given, again, strict=True)):
            yield from differences(left, right, f"{place}/{number}")
    elif given != again:
        yield place


if __name__ == "__main__":
    sys.exit(run())
