"""The files that run and watch the service, as their readers read them."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


class ComposeLoader(yaml.SafeLoader):
    """YAML with compose's `!reset`, which takes out what an earlier file has put in."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def parsed(path: Path) -> Any:
    """The one document of a YAML file."""
    return yaml.load(path.read_text(), ComposeLoader)


def manifests() -> dict[tuple[str, str], Any]:
    """What Kubernetes gets, by kind and name."""
    listed = parsed(KUBERNETES / "kustomization.yaml")["resources"]
    every = [each for name in listed for each in yaml.safe_load_all((KUBERNETES / name).read_text())]
    return {(each["kind"], each["metadata"]["name"]): each for each in every}
