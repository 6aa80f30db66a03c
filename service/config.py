"""The settings of `mixformer serve`: one frozen value, read once from flags, environment and file.

A flag beats the environment (`MIXFORMER_<NAME>`), the environment beats the file (TOML, limits under `[limits]`), the file
beats the default. Anything unknown or wrong stops the start with the setting's name, its value and where it came from.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

ENVIRONMENT_PREFIX = "MIXFORMER_"
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


@dataclass(frozen=True)
class Limits:
    """What one client, or all together, may ask for. `GetServerInfo` publishes those that a client can keep to."""

    max_frame_bytes: Annotated[int, Meta(ge=1024, le=1024 * MIB - 1, description="largest frame as sent, in bytes")] = 8 * MIB
    # 8K UHD fits.
    max_frame_pixels: Annotated[int, Meta(ge=1, le=2**28, description="largest frame once decoded, in pixels")] = 7680 * 4320
    max_targets_per_session: Annotated[int, Meta(ge=1, le=1024, description="targets a session may follow at once")] = 16
    max_sessions: Annotated[int, Meta(ge=1, le=1_000_000, description="sessions that may exist at once")] = 1000
    max_streams: Annotated[int, Meta(ge=1, le=1_000_000, description="streams that may be open at once")] = 500
    decoded_bytes_budget: Annotated[
        int, Meta(ge=1, le=2**40, description="bytes of decoded frames held at once, all together")
    ] = 1024 * MIB  # fmt: skip

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
    weights: Annotated[str, Meta(description="checkpoint file; empty means the weights that come with the package")] = ""
    variant: Annotated[str, Meta(description="variant of the network; empty means the one the checkpoint names")] = ""
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Meta(description="arithmetic of the network")
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
    threads: Annotated[int, Meta(ge=0, le=1024, description="CPU threads of a worker; 0 means automatic")] = 0
    slots: Annotated[int, Meta(ge=0, le=65536, description="template memories held on the device; 0 means automatic")] = 0
    max_batch: Annotated[int, Meta(ge=1, le=1024, description="targets tracked in one pass")] = 32
    max_under_way: Annotated[
        int, Meta(ge=0, le=1_000_000, description="targets under way at a front before new ones are refused; 0: its share of one pass of every worker")
    ] = 0  # fmt: skip
    max_encodes: Annotated[int, Meta(ge=1, le=1024, description="templates encoded in one step")] = 4
    grace_seconds: Annotated[float, Meta(ge=0, le=3600, description="time to drain at shutdown")] = 10.0
    worker_timeout_seconds: Annotated[float, Meta(gt=0, le=3600, description="longest wait for an answer of the worker")] = 30.0
    worker_silence_seconds: Annotated[
        float, Meta(ge=0.5, le=3600, description="a worker that gives no sign of life for this long is killed")
    ] = 5.0  # fmt: skip
    max_worker_restarts: Annotated[
        int, Meta(ge=1, le=1_000_000, description="workers in a row that may die within a minute before the service gives up")
    ] = 20  # fmt: skip
    idle_timeout_seconds: Annotated[
        float, Meta(gt=0, le=YEAR_SECONDS, description="a session without frames ends after this, by default")
    ] = 300.0  # fmt: skip
    max_idle_timeout_seconds: Annotated[
        float, Meta(gt=0, le=YEAR_SECONDS, description="the longest idle timeout a client may ask for")
    ] = 3600.0  # fmt: skip
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level that is logged")] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="one event a line, for people or for machines")] = "text"
    run_dir: Annotated[str, Meta(description="folder for the worker's socket; empty means a private temporary one")] = ""
    worker_socket: Annotated[str, Meta(description="path of the first worker's socket; set by the parent")] = ""
    number: Annotated[int, Meta(ge=0, description="which of the workers or fronts a child is; set by the parent")] = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.idle_timeout_seconds > self.max_idle_timeout_seconds:
            raise ValueError(
                f"idle_timeout_seconds {self.idle_timeout_seconds:g} is over "
                f"max_idle_timeout_seconds {self.max_idle_timeout_seconds:g}"
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


class Setting(NamedTuple):
    """One setting as flags, environment and file name it."""

    name: str
    type: Any
    default: object
    help: str
    is_limit: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The values allowed where only a few are, else empty."""
        return tuple(get_args(get_args(self.type)[0]))


def _settings(owner: type[ServeSettings | Limits], *, is_limit: bool) -> Iterator[Setting]:
    hints = get_type_hints(owner, include_extras=True)
    each: Field[Any]
    for each in fields(owner):
        if each.default is not MISSING:
            meta = next(extra for extra in get_args(hints[each.name]) if isinstance(extra, Meta))
            yield Setting(each.name, hints[each.name], each.default, meta.description or "", is_limit)


# Set by the parent for its children; no flag and no file sets it.
_INTERNAL = {"worker_socket", "number"}
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (*_settings(ServeSettings, is_limit=False), *_settings(Limits, is_limit=True))
    if setting.name not in _INTERNAL
}

_CHECKS: dict[str, Callable[[str], object]] = {"listen": parse_address, "metrics": parse_address}

# Kubernetes puts such variables into every container for a Service whose name starts with "mixformer".
_SERVICE_LINK = re.compile(r"MIXFORMER(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


class _Given(NamedTuple):
    value: object
    source: str


def load_settings(flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None) -> ServeSettings:
    """The settings from all sources. `flags` maps setting names to values; a None was not given.

    `file` is the `--config` file, or else the one that MIXFORMER_CONFIG names. Raises SettingsError.
    """
    named = environment.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    path = file or (Path(named) if named else None)
    given = {
        **(dict(_from_file(path)) if path else {}),
        **dict(_from_environment(environment)),
        **{name: _Given(value, f"flag --{name.replace('_', '-')}") for name, value in flags.items() if value is not None},
    }
    values = {name: _convert(name, *each) for name, each in given.items()}
    try:
        limits = Limits(**{name: value for name, value in values.items() if SETTINGS[name].is_limit})
        return ServeSettings(limits=limits, **{name: value for name, value in values.items() if not SETTINGS[name].is_limit})
    except ValueError as error:
        raise SettingsError(f"{error} ({_sources(str(error), given)})") from error


def _from_file(path: Path) -> Iterator[tuple[str, _Given]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"config file {path} cannot be read: {error}") from error
    limits = document.pop("limits", {})
    if not isinstance(limits, dict):
        raise SettingsError(f"limits={limits!r} (file {path}): expected a table [limits]")
    for table, is_limit in ((document, False), (limits, True)):
        for name, value in table.items():
            if name in SETTINGS and SETTINGS[name].is_limit is not is_limit:
                raise SettingsError(f"{name}={value!r} (file {path}): belongs {'under' if not is_limit else 'above'} [limits]")
            yield name, _Given(value, f"file {path}")


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for variable, value in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and name != "CONFIG" and not _SERVICE_LINK.fullmatch(variable):
            yield name.lower(), _Given(value, f"environment {variable}")


def _convert(name: str, value: object, source: str) -> Any:
    if name not in SETTINGS:
        raise SettingsError(f"{name}={value!r} ({source}): there is no such setting")
    try:
        converted = msgspec.convert(value, SETTINGS[name].type, strict=False)
        if name in _CHECKS:
            _CHECKS[name](converted)
    except ValueError as error:
        raise SettingsError(f"{name}={value!r} ({source}): {error}") from error
    return converted


def _sources(message: str, given: Mapping[str, _Given]) -> str:
    return ", ".join(f"{name} from {each.source}" for name, each in given.items() if name in message.split())
