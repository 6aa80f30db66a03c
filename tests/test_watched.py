"""Files that are read again when they change."""

import logging
import os
from pathlib import Path

import pytest
from fake_front import FakeTime

from service.watched import LOOK_SECONDS, Watched


def number(content: bytes) -> int:
    return int(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "number"
    written.write_text("1")
    return written


def test_the_value_is_the_same_object_until_the_file_changes(path: Path) -> None:
    time = FakeTime()
    watched = Watched((path,), bytes.split, time)
    first = watched.value
    time.now += LOOK_SECONDS
    assert watched.value is first
    path.write_text("2 3")
    assert watched.value is first
    time.now += LOOK_SECONDS
    assert watched.value == [b"2", b"3"]


def test_a_file_put_in_the_place_of_another_is_a_change_though_time_and_size_are_the_same(path: Path) -> None:
    time = FakeTime()
    watched = Watched((path,), number, time)
    before = os.stat(path)
    other = path.with_name("other")
    other.write_text("7")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    time.now += LOOK_SECONDS
    assert watched.value == 7


@pytest.mark.parametrize("content", ["secret words", None])
def test_a_change_that_cannot_be_used_leaves_the_value_and_is_logged_once_without_the_content(
    path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def parse(content: bytes) -> int:
        if not content.isdigit():
            raise ValueError(f"{len(content)} bytes are not a number")
        return int(content)

    time = FakeTime()
    watched = Watched((path,), parse, time)
    path.unlink() if content is None else path.write_text(content)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            time.now += LOOK_SECONDS
            assert watched.value == 1
        path.write_text("2")
        time.now += LOOK_SECONDS
        assert watched.value == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert str(path) in caplog.text
    assert "secret" not in caplog.text


def test_files_that_belong_together_are_one_value(path: Path) -> None:
    time = FakeTime()
    other = path.with_name("other")
    other.write_text("10")
    watched = Watched((path, other), lambda one, two: int(one) + int(two), time)
    other.write_text("20")
    time.now += LOOK_SECONDS
    assert watched.value == 21


def test_a_file_that_cannot_be_used_at_the_start_is_an_error(path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        Watched((path.with_name("absent"),), number)
    path.write_text("x")
    with pytest.raises(ValueError, match="invalid literal"):
        Watched((path,), number)
