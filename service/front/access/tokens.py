"""Bearer tokens: who may call, by the secret that the call carries."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from service.config import ServeSettings
from service.errors import Unauthenticated
from service.watched import Watched

MIN_CHARACTERS = 16
_SCHEME = "bearer"
_NAME = re.compile(r"[\w.@:/+-]{1,64}", re.ASCII)
# What RFC 6750 allows in the header.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

# As gRPC gives it: lower-case names, and bytes for those that end in -bin.
Metadata = Iterable[tuple[str, str | bytes]]


class Token(NamedTuple):
    """One token: whose it is, and its SHA-256. The token itself is not kept."""

    name: str
    digest: bytes


class Tokens:
    """All tokens that are good now, of the file and of the environment. A client may have several: that is how they rotate."""

    def __init__(self, settings: ServeSettings) -> None:
        """Raises OSError and ValueError where the file or the environment's list cannot be used; neither tells a token."""
        self._fixed = parse(settings.tokens.replace(",", "\n").encode()) if settings.tokens else ()
        self._file = Watched((Path(settings.token_file),), parse) if settings.token_file else None

    @property
    def are_required(self) -> bool:
        """Whether calls must carry one."""
        return bool(self._fixed or self._file)

    @property
    def version(self) -> object:
        """Another object once the file has changed."""
        return self._file and self._file.value

    def owner(self, metadata: Metadata) -> str:
        """The name of the client whose token a call carries. Raises Unauthenticated."""
        found = None
        for digest in map(_digest, _carried(metadata)):
            for token in (*self._fixed, *(self._file.value if self._file else ())):
                # All are compared, each in constant time: how long it takes says nothing about any of them.
                if hmac.compare_digest(token.digest, digest):
                    found = token.name
        if found is None:
            raise Unauthenticated("metadata authorization must be 'Bearer TOKEN' with a token that this server knows")
        return found


def parse(content: bytes) -> tuple[Token, ...]:
    """The tokens of a file: `NAME TOKEN` a line, empty lines and those that begin with # left out.

    Raises ValueError with the number of the line that makes no sense, never with what stands in it.
    """
    tokens: list[Token] = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            tokens.append(_token(words, number))
            if tokens[-1].digest in (each.digest for each in tokens[:-1]):
                raise ValueError(f"line {number}: the token stands there twice")
    if not tokens:
        raise ValueError("no token in it")
    return tuple(tokens)


def _token(words: list[str], number: int) -> Token:
    if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _TOKEN.fullmatch(words[1]):
        raise ValueError(f"line {number}: expected NAME TOKEN, a name of at most 64 characters and a token as RFC 6750 has it")
    if len(words[1]) < MIN_CHARACTERS:
        raise ValueError(f"line {number}: the token has {len(words[1])} characters, at least {MIN_CHARACTERS} are needed")
    return Token(words[0], _digest(words[1]))


def _carried(metadata: Metadata) -> list[str]:
    """The tokens of a call: one, unless it is made to try several; then none counts."""
    found = [value for key, value in metadata if key == "authorization" and isinstance(value, str)]
    if len(found) != 1:
        return []
    scheme, _, token = found[0].partition(" ")
    return [token.strip()] if scheme.lower() == _SCHEME else []


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
