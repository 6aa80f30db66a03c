"""The commands' own connections: TLS, client certificates and tokens, against the real service."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from certificates import Authority
from pictures import scene
from secured import TOKENS, Secured, secured

from service.access import Access
from service.cli import main

STOP = ["--streams", "2", "--rate", "5", "--duration", "1", "--size", "320x240", "--json"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("access")) as started:
        yield started


@pytest.fixture
def flags(house: Secured, tmp_path: Path) -> list[str]:
    """How a client of the service connects."""
    certificate, key = house.client.write(tmp_path, "client")
    token = tmp_path / "token"
    token.write_text(TOKENS["cam"] + "\n")
    tls = ["--tls-ca", str(house.folder / "ca.crt"), "--tls-cert", str(certificate), "--tls-key", str(key)]
    return ["--server", house.running.address, *tls, "--token-file", str(token)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.jpg"), scene(seed=number))
    return folder


def test_a_secured_server_is_ready_for_who_trusts_it(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["healthcheck", *flags]) == 0
    assert main(["healthcheck", *flags, "--tls-name", "tracker"]) == 0
    assert capsys.readouterr().out.split() == ["SERVING", "SERVING"]
    assert main(["healthcheck", *flags, "--tls-name", "another"]) == 1
    assert main(["healthcheck", *flags[:2], "--tls"]) == 1
    assert main(["healthcheck", *flags[:2]]) == 1


def test_files_that_hold_no_certificate_or_anothers_key_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, empty = Authority(), tmp_path / "empty"
    empty.touch()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (certificate, _), (_, key) = (authority.client(name).write(tmp_path, name) for name in ("one", "other"))
    given = ["--tls-ca", str(tmp_path / "ca.crt"), "--tls-cert", str(certificate)]
    for flags, named in (
        (["--tls-ca", str(empty)], f"{empty} "),
        ([*given, "--tls-key", str(key)], f"{certificate} and {key} "),
    ):
        assert main(["healthcheck", "--server", "127.0.0.1:1", *flags]) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1
        assert errors[0].startswith(f"mixformer healthcheck: {named}cannot be used: ")


def test_footage_is_tracked_by_a_secured_server(flags: list[str], clip: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    assert main(["track", str(clip), "--box", "100,80,40,40", *flags, "--output", str(results)]) == 0
    assert [json.loads(line)["outcome"] for line in results.read_text().splitlines()] == ["PROCESSED"] * 3


def test_a_secured_server_is_loaded(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", *flags, *STOP]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["processed"] == report["due"] == 10


def test_a_token_may_come_from_the_environment_and_a_wrong_one_is_told(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXFORMER_CLIENT_TOKEN", TOKENS["desk"])
    assert main(["loadtest", *flags[:-2], *STOP]) == 0
    monkeypatch.setenv("MIXFORMER_CLIENT_TOKEN", "token-that-nobody-has")
    capsys.readouterr()
    assert main(["loadtest", *flags[:-2], *STOP]) == 1
    errors = capsys.readouterr().err
    assert "UNAUTHENTICATED" in errors and "token-that-nobody-has" not in errors


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--token-file", "TOKEN"], "the token would go to example.com:50051 in the clear"),
        (["--tls", "--token-file", "TWO"], "must hold one token and nothing else; it holds 2 words"),
        (["--tls", "--token-file", "NONE"], "it holds 0 words"),
        (["--tls", "--token-file", "absent"], "No such file or directory"),
        (["--tls", "--tls-cert", "TOKEN"], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", "TOKEN", "--tls-key", "TOKEN"], "need --tls or --tls-ca"),
        (["--tls-name", "tracker"], "need --tls or --tls-ca"),
    ],
)
def test_flags_that_do_not_fit_are_told(
    given: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"TOKEN": "a-secret-token", "TWO": "secret secret", "NONE": "\n"}.items():
        (tmp_path / name).write_text(content)
    assert main(["healthcheck", "--server", "example.com:50051", *given]) in (1, 2)
    errors = capsys.readouterr().err
    assert words in errors and "secret" not in errors


def test_tracking_in_this_process_has_no_server_to_connect_to(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["track", str(clip), "--box", "1,1,20,20", "--token-file", "x"])
    assert "--token-file needs --server" in capsys.readouterr().err


def test_a_token_is_not_shown_where_access_is_printed() -> None:
    assert "secret" not in repr(Access(token="secret"))
