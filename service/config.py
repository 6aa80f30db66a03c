"""The settings of `mixformer serve`: one frozen value, complete after the start."""

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

MIB = 1024 * 1024
# The `device` that is not there (worker/simulated.py).
SIMULATED_DEVICE = "simulated"
# Upper ends are far above what makes sense; a value over them is a slip, and would only fail later.
YEAR_SECONDS = 365 * 24 * 3600
_LAST_PORT = 65535


class SettingsError(ValueError):
    """A setting that is unknown or wrong. The message names it, its value and its source."""


class Address(NamedTuple):
    """Where a port is opened. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT` (`[::1]:50051` for IPv6) as an Address. Raises ValueError where it is not one."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= _LAST_PORT):
        raise ValueError("expected HOST:PORT with a port of 0 to 65535")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a port that is opened there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_store(text: str) -> None:
    """Raises ValueError where `text` is neither empty nor the URL of a store."""
    if not text:
        return
    scheme, _, rest = text.partition("://")
    if scheme not in ("redis", "rediss", "unix") or not rest:
        raise ValueError("expected a redis://, rediss:// or unix:// URL")
    if ":" in rest.rpartition("@")[0] or "password=" in rest:
        raise ValueError("a password does not belong in it: see store_password_file")


@dataclass(frozen=True)
class Limits:
    """What one client, or all together, may ask for. `GetServerInfo` publishes those that a client can keep to."""

    max_frame_bytes: Annotated[int, Meta(ge=1024, le=1024 * MIB - 1, description="largest frame as sent, in bytes")] = 8 * MIB
    # 8K UHD fits.
    max_frame_pixels: Annotated[int, Meta(ge=1, le=2**28, description="largest frame once decoded, in pixels")] = 7680 * 4320
    max_targets_per_session: Annotated[int, Meta(ge=1, le=1024, description="targets a session may follow at once")] = 16
    max_sessions: Annotated[int, Meta(ge=1, le=1_000_000, description="sessions that may exist at once")] = 1000
    max_streams: Annotated[int, Meta(ge=1, le=1_000_000, description="streams that may be open at once")] = 500
    # Below the 4 MiB that gRPC's clients take unless told otherwise.
    max_resume_token_bytes: Annotated[int, Meta(ge=1024, le=64 * MIB, description="largest resume token, in bytes")] = 3 * MIB
    decoded_bytes_budget: Annotated[
        int, Meta(ge=1, le=2**40, description="bytes of decoded frames held at once, all together")
    ] = 1024 * MIB  # fmt: skip
    max_client_sessions: Annotated[int, Meta(ge=0, le=1_000_000, description="sessions of one client; 0 means no limit")] = 0
    max_client_frames_per_second: Annotated[
        float, Meta(ge=0, le=1_000_000, description="frames of one client a second; 0 means no limit")
    ] = 0.0  # fmt: skip
    max_client_bytes_per_second: Annotated[
        int, Meta(ge=0, le=2**40, description="bytes of frames of one client a second, as sent; 0 means no limit")
    ] = 0  # fmt: skip

    def __post_init__(self) -> None:
        largest = 3 * self.max_frame_pixels
        if self.decoded_bytes_budget < largest:
            raise ValueError(
                f"decoded_bytes_budget {self.decoded_bytes_budget} is below one frame of "
                f"max_frame_pixels {self.max_frame_pixels}, {largest} bytes"
            )


@dataclass(frozen=True)
class ServeSettings:
    """Everything the parent, the front and the worker are started with."""

    listen: Annotated[str, Meta(description="HOST:PORT of the gRPC service")] = "127.0.0.1:50051"
    metrics: Annotated[str, Meta(description="HOST:PORT of the Prometheus metrics")] = "127.0.0.1:9090"
    insecure: Annotated[
        bool, Meta(description="let other machines in though TLS, or tokens and client certificates, are wanting")
    ] = False  # fmt: skip
    tls_cert: Annotated[str, Meta(description="PEM file of the server's certificate and chain; empty means no TLS")] = ""
    tls_key: Annotated[str, Meta(description="PEM file of its key")] = ""
    tls_client_ca: Annotated[
        str, Meta(description="PEM file of authorities; every client must have a certificate of theirs")
    ] = ""  # fmt: skip
    token_file: Annotated[str, Meta(description="file of bearer tokens, NAME TOKEN a line; every call must carry one")] = ""
    tokens: Annotated[str, Meta(description="the same in the environment, separated by commas")] = field(default="", repr=False)
    traces: Annotated[
        str, Meta(description="URL of an OTLP/gRPC receiver of OpenTelemetry traces, http or https; empty means none")
    ] = ""  # fmt: skip
    weights: Annotated[str, Meta(description="checkpoint file; empty means the weights that come with the package")] = ""
    variant: Annotated[str, Meta(description="variant of the network; empty means the one the checkpoint names")] = ""
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"], Meta(description="arithmetic of the network")
    ] = "auto"  # fmt: skip
    device: Annotated[
        str, Meta(min_length=1, description="auto, cpu, cuda or cuda:N; simulated: made-up boxes, for load tests")
    ] = "auto"  # fmt: skip
    devices: Annotated[
        str, Meta(description="devices with a worker each, as in cuda:0,cuda:1; empty means `workers` of them on `device`")
    ] = ""  # fmt: skip
    workers: Annotated[int, Meta(ge=1, le=64, description="workers on `device`, where `devices` is empty")] = 1
    fronts: Annotated[int, Meta(ge=1, le=64, description="fronts, on as many ports from that of `listen` on")] = 1
    simulated_batch_ms: Annotated[float, Meta(ge=0, le=60_000, description="what a pass of the simulated device takes")] = 10.0
    simulated_item_ms: Annotated[
        float, Meta(ge=0, le=60_000, description="what each target of it, and each template memory that is new, adds")
    ] = 1.0  # fmt: skip
    simulated_steps: Annotated[
        int, Meta(ge=1, le=16, description="steps that the simulated device may be asked for before it has done the first")
    ] = 1  # fmt: skip
    backend: Annotated[
        Literal["auto", "openvino", "torch"], Meta(description="what runs the network; auto: OpenVINO on a CPU")
    ] = "auto"  # fmt: skip
    cache_dir: Annotated[str, Meta(description="folder that keeps compiled networks; empty means the user's cache folder")] = ""
    threads: Annotated[int, Meta(ge=0, le=1024, description="CPU threads of a worker; 0 means automatic")] = 0
    slots: Annotated[int, Meta(ge=0, le=65536, description="template memories held on the device; 0 means automatic")] = 0
    max_batch: Annotated[int, Meta(ge=1, le=1024, description="targets tracked in one pass")] = 32
    max_under_way: Annotated[
        int, Meta(ge=0, le=1_000_000, description="targets under way at a front before new ones are refused; 0: its share of one pass of every worker")
    ] = 0  # fmt: skip
    max_encodes: Annotated[int, Meta(ge=1, le=1024, description="templates encoded in one step")] = 4
    grace_seconds: Annotated[float, Meta(ge=0, le=3600, description="time to drain at shutdown")] = 10.0
    max_stream_seconds: Annotated[
        float,
        Meta(ge=0, le=YEAR_SECONDS, description="a stream is drained after this, so that sessions spread to new servers; 0: never"),
    ] = 0.0  # fmt: skip
    worker_timeout_seconds: Annotated[float, Meta(gt=0, le=3600, description="longest wait for an answer of the worker")] = 30.0
    worker_silence_seconds: Annotated[
        float, Meta(ge=0.5, le=3600, description="a worker that gives no sign of life for this long is killed")
    ] = 5.0  # fmt: skip
    max_worker_restarts: Annotated[
        int, Meta(ge=1, le=1_000_000, description="workers in a row that may die within a minute before the service gives up")
    ] = 20  # fmt: skip
    keepalive_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="a client that is silent for this long is asked whether it is still there")
    ] = 20.0  # fmt: skip
    idle_timeout_seconds: Annotated[
        float, Meta(gt=0, le=YEAR_SECONDS, description="a session without frames ends after this, by default")
    ] = 300.0  # fmt: skip
    max_idle_timeout_seconds: Annotated[
        float, Meta(gt=0, le=YEAR_SECONDS, description="the longest idle timeout a client may ask for")
    ] = 3600.0  # fmt: skip
    token_keys: Annotated[
        str, Meta(description="file of the keys that resume tokens are sealed with; empty means that none are given")
    ] = ""  # fmt: skip
    token_interval_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="time between two resume tokens of a session whose templates stay the same")
    ] = 5.0  # fmt: skip
    store: Annotated[
        str, Meta(description="redis://, rediss:// or unix:// URL where sessions are kept; empty means in this process alone")
    ] = ""  # fmt: skip
    store_password_file: Annotated[str, Meta(description="file that holds the password of the store")] = ""
    store_interval_seconds: Annotated[
        float, Meta(ge=0.01, le=3600, description="a session is written to the store this often, while it has frames")
    ] = 1.0  # fmt: skip
    store_interval_frames: Annotated[
        int, Meta(ge=1, le=1_000_000, description="and sooner after this many frames: what a session can lose at most")
    ] = 30  # fmt: skip
    store_timeout_seconds: Annotated[
        float, Meta(ge=0.01, le=60, description="longest wait for the store when a session is opened by its id")
    ] = 0.5  # fmt: skip
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level that is logged")] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="one event a line, for people or for machines")] = "text"
    run_dir: Annotated[str, Meta(description="folder for the worker's socket; empty means a private temporary one")] = ""
    worker_socket: Annotated[str, Meta(description="path of the first worker's socket; set by the parent")] = ""
    number: Annotated[int, Meta(ge=0, description="which of the workers or fronts a child is; set by the parent")] = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.traces and not self.traces.startswith(("http://", "https://")):
            raise ValueError(f"traces {self.traces!r} is no URL that begins with http:// or https://")
        if self.idle_timeout_seconds > self.max_idle_timeout_seconds:
            raise ValueError(
                f"idle_timeout_seconds {self.idle_timeout_seconds:g} is over "
                f"max_idle_timeout_seconds {self.max_idle_timeout_seconds:g}"
            )
        if bool(self.tls_cert) != bool(self.tls_key) or (self.tls_client_ca and not self.tls_cert):
            raise ValueError("tls_cert and tls_key belong together, and tls_client_ca to both")
        if self.is_open and self.lacks and not self.insecure:
            raise ValueError(
                f"listen {self.listen} lets other machines in without {' and '.join(self.lacks)}; insecure allows it"
            )
        if self.devices and self.workers > 1:
            raise ValueError(
                f"workers {self.workers} and devices {self.devices!r} exclude each other: name a device per worker"
            )
        if not all(self.worker_devices):
            raise ValueError(f"devices {self.devices!r} has an empty name in it")
        last_port = parse_address(self.listen).port + self.fronts - 1
        if last_port > _LAST_PORT:
            raise ValueError(
                f"listen {self.listen} leaves no room for fronts {self.fronts}: the last port would be {last_port}"
            )

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach the gRPC port."""
        return not is_loopback(parse_address(self.listen).host)

    @property
    def lacks(self) -> tuple[str, ...]:
        """What other machines must not be let in without, and which settings would give it."""
        knows_callers = self.token_file or self.tokens or self.tls_client_ca
        return (
            *(() if self.tls_cert else ("TLS (tls_cert, tls_key)",)),
            *(() if knows_callers else ("knowing them (token_file or tls_client_ca)",)),
        )

    @property
    def worker_devices(self) -> tuple[str, ...]:
        """The device of every worker."""
        if not self.devices:
            return (self.device,) * self.workers
        return tuple(each.strip() for each in self.devices.split(","))

    @property
    def front_address(self) -> Address:
        """Where front `number` listens: consecutive ports; where the system chooses, it chooses for each."""
        host, port = parse_address(self.listen)
        return Address(host, port + self.number if port else 0)

    def socket_of(self, worker: int) -> str:
        """Path of the socket of the worker with this number."""
        return f"{self.worker_socket}.{worker}" if worker else self.worker_socket

    def to_json(self) -> bytes:
        """The settings as one line of JSON, for a child's standard input."""
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(line: bytes) -> "ServeSettings":
        """Settings from `to_json`. Raises SettingsError where the line holds none."""
        try:
            return msgspec.json.decode(line, type=ServeSettings)
        except msgspec.DecodeError as error:
            raise SettingsError(f"no settings on standard input: {error}") from error
