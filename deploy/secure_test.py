"""`make secure-test`: compose with deploy/compose.secure.yml: who comes without TLS or without a good token is refused, others are served;
then with deploy/compose.mutual.yml too: who shows no certificate is refused.

The certificates and the token are made by the commands of docs/operations.md, word for word. Needs Docker with compose v2, openssl.
Arguments: compose files laid over.
"""

import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from asking import require
from composing import OUTPUT, PROMETHEUS, Compose, build, mixformer, run, stop, track, up

SECURE, MUTUAL = "deploy/compose.secure.yml", "deploy/compose.mutual.yml"
SERVER = "127.0.0.1:50051"
SECRETS = OUTPUT / "secrets"
BY_TLS = ("--tls-ca", str(SECRETS / "ca.crt"), "--tls-name", "tracker")
BY_CERTIFICATE = ("--tls-cert", str(SECRETS / "probe.crt"), "--tls-key", str(SECRETS / "probe.key"))
# What compose mounts, and what the commands have made it as: clients' certificates are signed by the server's authority.
MOUNTED = {
    "server.crt": "server.crt", "server.key": "server.key", "ca.crt": "ca.crt", "tokens": "tokens",
    "clients.crt": "ca.crt", "probe.crt": "client.crt", "probe.key": "client.key",
}  # fmt: skip
NEW_TOKEN = "f" * 48
SEEN_SECONDS = 5.0  # the server looks once a second whether its tokens have changed; here it may be busy
LOAD = {"LOAD_STREAMS": "1", "LOAD_RATE": "1", "LOAD_SECONDS": "5"}


def make_secrets(folder: Path) -> str:
    """What compose mounts, in SECRETS; the rest in `folder`. Gives the token of camera-1."""
    section = Path("docs/operations.md").read_text().partition("\n## Security\n")[2]
    commands = re.findall(r"^    ((?:openssl|printf|echo) .*)$", section.partition("\n| flag")[0], re.MULTILINE)
    for each in (folder, SECRETS):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    subprocess.run(["sh", "-e", "-c", "\n".join(commands)], cwd=folder, check=True, capture_output=True)
    for name, made_as in MOUNTED.items():
        # User 10001 reads them, whoever runs this.
        shutil.copy(folder / made_as, SECRETS / name)
        (SECRETS / name).chmod(0o644)
    return (SECRETS / "tokens").read_text().split()[1]


def with_token(token: str) -> tuple[str, ...]:
    """The flags of a client that has it."""
    path = OUTPUT / "token"
    path.write_text(token)
    return (*BY_TLS, "--token-file", str(path))


def call(*access: str) -> "subprocess.CompletedProcess[str]":
    """One stream of one frame."""
    flags = ("--streams", "1", "--rate", "1", "--duration", "1", "--size", "320x240", "--patience", "0")
    return subprocess.run(
        mixformer("loadtest", "--server", SERVER, *flags, *access), capture_output=True, text=True, check=False
    )


def require_refused(code: str, *access: str) -> None:
    """A call ends with this status. Raises CheckFailed."""
    done = call(*access)
    require(done.returncode != 0 and code in done.stderr, f"{access}: status {done.returncode}, {done.stderr}")


def require_no_complaints(compose: Compose) -> None:
    """The tracker has logged nothing above `info`. Raises CheckFailed."""
    complaints = compose.complaints("tracker")
    require(not complaints, f"the tracker says {complaints}")


def require_served(*access: str) -> None:
    """A call has its results. Raises CheckFailed."""
    done = call(*access)
    require(done.returncode == 0, f"{access}: status {done.returncode}, {done.stderr}")


def start(compose: Compose) -> str:
    """Everything up; the tracker complains of nothing, and its health check comes by TLS."""
    up(compose)
    require_no_complaints(compose)
    return "healthy by TLS, scraped"


def refuse(compose: Compose) -> str:
    """Calls without TLS, by a client that does not know the server's authority, without a token, and with a wrong one."""
    require_refused("UNAVAILABLE")
    require_refused("UNAVAILABLE", "--tls")
    require_refused("UNAUTHENTICATED", *BY_TLS)
    require_refused("UNAUTHENTICATED", *with_token("0" * 48))
    PROMETHEUS.wait_until("sum(mixformer_unauthenticated_calls_total)", lambda value: value == 2)
    return "no TLS and another authority: UNAVAILABLE; no token and a wrong one: UNAUTHENTICATED, 2 counted"


def track_shot(compose: Compose) -> str:
    """The demo's shot by TLS and with the token."""
    return track(SERVER, *with_token(compose.settings["LOAD_TOKEN"]))


def load_inside(compose: Compose) -> str:
    """Compose's own load tester comes with what it is given. Raises CalledProcessError where a frame is refused."""
    table = compose("--profile", "load", "--progress", "quiet", "run", "--rm", "--no-TTY", "--no-deps", "loadtest")
    return ", ".join(" ".join(line.split()) for line in table.splitlines() if line.startswith(("frames due", "processed")))


def change_token(compose: Compose) -> str:
    """Another token in the file's place is good, and the old one no more; nothing is started anew."""
    beside = SECRETS / ".tokens"
    beside.write_text(f"camera-1 {NEW_TOKEN}\n")
    beside.replace(SECRETS / "tokens")
    time.sleep(SEEN_SECONDS)
    require_served(*with_token(NEW_TOKEN))
    require_refused("UNAUTHENTICATED", *with_token(compose.settings["LOAD_TOKEN"]))
    return "the new one is served, the old one UNAUTHENTICATED"


def ask_for_certificates(compose: Compose) -> str:
    """The tracker started anew with deploy/compose.mutual.yml: the token alone is not enough, nor is a certificate."""
    mutual = replace(
        compose, overrides=(SECURE, MUTUAL, *compose.overrides[1:]), settings={**compose.settings, "LOAD_TOKEN": NEW_TOKEN}
    )
    up(mutual)
    require_refused("UNAVAILABLE", *with_token(NEW_TOKEN))
    require_refused("UNAUTHENTICATED", *BY_TLS, *BY_CERTIFICATE)
    require_served(*with_token(NEW_TOKEN), *BY_CERTIFICATE)
    loaded = load_inside(mutual)
    require_no_complaints(mutual)
    return f"healthy by a certificate; without one: UNAVAILABLE; with one and no token: UNAUTHENTICATED; with both: {loaded}"


if __name__ == "__main__":
    settings = LOAD | {"SECRETS": str(SECRETS.resolve()), "LOAD_TOKEN": make_secrets(OUTPUT / "made")}
    compose = Compose("cpu", (SECURE, *sys.argv[1:]), settings)
    sys.exit(run(compose, (build, start, refuse, track_shot, load_inside, change_token, ask_for_certificates, stop)))
