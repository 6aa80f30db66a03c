"""What the pages say of the code, held against the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import simplejpeg
from fake_service import FakeService, listening
from google.protobuf.message import Message

from mixformer.tracking.v1 import tracking_pb2 as pb
from service import errors
from service.commands.synthetic import synthetic_clip

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text()


def kinds(base: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [base, *(each for kind in base.__subclasses__() for each in kinds(kind))]


@pytest.mark.parametrize("kind", kinds(errors.ServiceError))
def test_every_reason_is_in_the_table_with_its_code(kind: type[errors.ServiceError]) -> None:
    rows = [row for row in API.splitlines() if f"`{kind.reason}`" in row and row.startswith("|")]
    assert len(rows) == 1
    assert kind.code.name in rows[0]


@pytest.mark.parametrize("message", [pb.SessionOptions, pb.TargetResult, pb.Timing], ids=lambda kind: kind.DESCRIPTOR.name)
def test_every_option_and_every_part_of_a_result_is_described(message: type[Message]) -> None:
    assert [field.name for field in message.DESCRIPTOR.fields if f"`{field.name}`" not in API] == []


def test_every_test_that_operations_names_is_there() -> None:
    named = re.findall(r"(\w+\.py)::(\w+)", (ROOT / "docs" / "operations.md").read_text())
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("room", ["model", "service", "training", "benchmarks", "deploy"])
def test_the_structure_names_every_file_of_a_room_and_no_other(room: str) -> None:
    structure = (ROOT / "docs" / "structure.md").read_text()
    (told,) = re.findall(rf"^    {room}/(.*?)^(?:    \w|$)", structure, re.DOTALL | re.MULTILINE)
    files = {path.name for path in (ROOT / room).rglob("*.py") if not path.name.startswith("__")}
    assert set(re.findall(r"\w+\.py", told)) == files


def test_every_make_target_is_told_at_the_top_and_no_page_names_another() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)}
    assert targets - {*re.findall(r"^# make ([a-z-]+)", makefile, re.MULTILINE)} == {"stubs-fresh"}
    pages = "".join(path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md")))
    assert {*re.findall(r"(?:`|^    )make ([a-z-]+)", pages, re.MULTILINE)} - targets == set()


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", API, re.DOTALL)
    shot = tmp_path / "demo_output" / "shot"
    shot.mkdir(parents=True)
    for number, (image, _) in enumerate(synthetic_clip(640, 480, 2)):
        (shot / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    with listening(FakeService()) as server:
        command = [sys.executable, "-c", example.replace("127.0.0.1:50051", server)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.count("outcome: FRAME_OUTCOME_PROCESSED") == 2
