"""The keys that resume tokens are signed with, from a file; and the seal itself.

A line of the file is an id and a key in hexadecimal digits. The first key signs; all are accepted. To change keys without
refusing a token that is out: add the new one below on every server, then move it to the top, then take the old one away.
"""

import hmac
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from service.errors import ResumeTokenInvalid, ResumeTokenVersion
from service.front.resume.snapshot import VERSION

_LINE = re.compile(r"(?P<id>[A-Za-z0-9._-]{1,32})\s+(?P<key>(?:[0-9a-fA-F]{2}){32,64})")
_DIGEST = "sha256"
_DIGEST_BYTES = 32


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    version: int
    key_id: str
    content: bytes


class Keys(NamedTuple):
    """Keys by id; `signing` is the id of the one that seals."""

    signing: str
    keys: Mapping[str, bytes]

    def seal(self, content: bytes) -> bytes:
        """The content with the key's id, after a MAC over both."""
        sealed = msgspec.msgpack.encode(_Sealed(VERSION, self.signing, content))
        return _mac(self.keys[self.signing], sealed) + sealed

    def open(self, token: bytes) -> bytes:
        """The content that one of these keys has sealed. Raises ResumeTokenInvalid, ResumeTokenVersion."""
        mac, rest = token[:_DIGEST_BYTES], token[_DIGEST_BYTES:]
        try:
            sealed = msgspec.msgpack.decode(rest, type=_Sealed)
        # msgspec's own, an id that is not UTF-8, and lists in lists without end, which nobody need have sealed.
        except (ValueError, RecursionError):
            raise ResumeTokenInvalid(f"{len(token)} bytes that are no resume token") from None
        if sealed.version != VERSION:
            raise ResumeTokenVersion(f"the resume token is of version {sealed.version}, this server reads {VERSION}")
        key = self.keys.get(sealed.key_id)
        if key is None or not hmac.compare_digest(mac, _mac(key, rest)):
            raise ResumeTokenInvalid("the resume token was changed, or sealed with a key that this server does not have")
        return sealed.content


def parse_keys(content: bytes) -> Keys:
    """The keys of a file. Raises ValueError, which shows no key."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"line {number} is not an id and a key of 64 to 128 hexadecimal digits")
        if found["id"] in keys:
            raise ValueError(f"line {number} gives key {found['id']} again")
        keys[found["id"]] = bytes.fromhex(found["key"])
    if not keys:
        raise ValueError("there is no key in it")
    return Keys(next(iter(keys)), keys)


def _mac(key: bytes, sealed: bytes) -> bytes:
    return hmac.digest(key, sealed, _DIGEST)
