"""Bearer tokens: what a file may hold, and whose a call's token is."""

from pathlib import Path

import pytest

from service.config import ServeSettings
from service.errors import Unauthenticated
from service.front.access.tokens import Metadata, Tokens, parse

FIRST, SECOND, THIRD = "first-token-of-cam", "second-token-of-cam", "a-token-of-the-desk"
FILE = f"# cameras\ncam {FIRST}\ncam {SECOND}\n\ndesk   {THIRD}\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokens"
    path.write_text(FILE)
    return Tokens(ServeSettings(token_file=str(path), tokens="shell token-of-the-shell,shell another-token-of-it"))


def bearer(token: str, scheme: str = "Bearer") -> Metadata:
    return [("user-agent", "test"), ("authorization", f"{scheme} {token}")]


@pytest.mark.parametrize(
    ("token", "owner"),
    [(FIRST, "cam"), (SECOND, "cam"), (THIRD, "desk"), ("token-of-the-shell", "shell"), ("another-token-of-it", "shell")],
)
def test_a_token_names_its_owner_and_one_owner_may_have_several(tokens: Tokens, token: str, owner: str) -> None:
    assert tokens.owner(bearer(token)) == tokens.owner(bearer(token, "bearer")) == owner


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        bearer(""),
        bearer(FIRST[:-1]),
        bearer(FIRST + "x"),
        bearer(FIRST, "Basic"),
        bearer("é" * 20),
        [("authorization", FIRST)],
        [("authorization-bin", f"Bearer {FIRST}".encode())],
        [*bearer(FIRST), *bearer(SECOND)],
    ],
)
def test_a_call_without_exactly_one_good_token_is_nobodys(tokens: Tokens, metadata: Metadata) -> None:
    with pytest.raises(Unauthenticated) as caught:
        tokens.owner(metadata)
    assert FIRST[:5] not in str(caught.value)


def test_without_a_file_and_a_list_no_token_is_needed() -> None:
    assert not Tokens(ServeSettings()).are_required


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no token"),
        ("# cam secret-secret-secret", "no token"),
        ("secret-secret-secret", "line 1: expected NAME TOKEN"),
        ("cam secret-secret-secret more", "line 1: expected NAME TOKEN"),
        ("cam secret,secret;secret", "line 1: expected NAME TOKEN"),
        ("c\x7fm secret-secret-secret", "line 1: expected NAME TOKEN"),
        ("\ncam secret", "line 2: the token has 6 characters, at least 16"),
        ("cam secret-secret-secret\ndesk secret-secret-secret", "line 2: the token stands there twice"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_line_and_never_shown(content: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse(content.encode())
    assert "secret" not in str(caught.value)
