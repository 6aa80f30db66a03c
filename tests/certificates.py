"""Certificates for tests, made here and good for an hour. Elliptic curves: a key takes a millisecond."""

import datetime
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_HOUR = datetime.timedelta(hours=1)


class Identity(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """NAME.crt and NAME.key, put in the place of what was there."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content in zip(paths, self, strict=True):
            replace(path, content)
        return paths


@dataclass(frozen=True)
class Authority:
    """Signs certificates."""

    name: str = "test authority"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def certificate(self) -> bytes:
        """Its own, as PEM."""
        return self._sign(self.name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    def server(self) -> Identity:
        """Of a server on this machine's loopback, which is also called `tracker`."""
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("tracker")]
        return self._identity("tracker", x509.SubjectAlternativeName(names))

    def client(self, name: str) -> Identity:
        """Of a client whose subject is CN=name."""
        return self._identity(name, x509.BasicConstraints(ca=False, path_length=None))

    def _identity(self, name: str, extension: x509.ExtensionType) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(self._sign(name, key, extension), pem)

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(_name(self.name), _name(name), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _HOUR)
            .not_valid_after(now + _HOUR)
            .add_extension(extension, critical=True)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another in one step, as tools that renew certificates do."""
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    beside.replace(path)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
