"""Imports go one way, as docs/structure.md says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRONT = ROOT / "service" / "front"
# From the lowest up: a room imports only from rooms that stand before it, and files beside the rooms are rooms of their own.
ROOMS = ("wire", "frames", "workers", "access", "telemetry", "tracking", "resume", "front", "calls", "listener", "frontend")
# What must not be found in the whole of a folder.
APART = {
    "model": ("service", "training", "grpc", "mixformer"),
    "training": ("service",),
    "service/front": ("service.worker", "service.server", "service.commands", "torch"),
    "service/worker": ("service.front", "service.server", "service.commands", "grpc", "mixformer"),
    "service/server.py": ("service.front", "service.worker", "torch"),
}


def imported(source: Path) -> Iterator[str]:
    """The modules that a file names in its imports, wherever they stand in it; `from package import name` as package.name."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found
    return found


def test_every_file_of_the_front_stands_in_a_room() -> None:
    names = {path.stem for path in FRONT.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert names == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_front_imports_only_from_those_below(room: str) -> None:
    upward = [
        f"{source.name} imports {name}"
        for source in sources(f"service/front/{room}" if (FRONT / room).is_dir() else f"service/front/{room}.py")
        for name in imported(source)
        if name.startswith("service.front.") and name.split(".")[2] not in ROOMS[: ROOMS.index(room) + 1]
    ]
    assert upward == []


@pytest.mark.parametrize("place", APART)
def test_what_is_kept_apart_stays_apart(place: str) -> None:
    wrong = [
        f"{source.name} imports {name}"
        for source in sources(place)
        for name in imported(source)
        if any(f"{name}.".startswith(f"{other}.") for other in APART[place])
    ]
    assert wrong == []
