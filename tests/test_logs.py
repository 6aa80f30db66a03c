"""Log lines: one event a line, also with a traceback, for people or for machines."""

import json
import logging
from collections.abc import Iterator

import pytest

from service import logs


@pytest.fixture(autouse=True)
def handlers_of_others() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def fail() -> None:
    try:
        raise ValueError("no\nnumber")
    except ValueError:
        logging.getLogger("room").exception("session %s failed", "abc")


def test_a_machine_gets_one_object_a_line_even_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "json")
    fail()
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == ("error", "room", "session abc failed")
    assert event["time"].endswith("+00:00")
    assert "ValueError" in event["exception"]


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("warning", "text")
    logging.getLogger("room").info("unheard")
    logging.getLogger("room").warning("heard")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "WARNING" in lines[0] and lines[0].endswith("room: heard")
