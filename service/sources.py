"""The settings of `mixformer serve` from flags, environment and file.

A flag beats the environment (`MIXFORMER_<NAME>`), the environment beats the file (TOML, limits under `[limits]`), the file
beats the default. Anything unknown or wrong stops the start with the setting's name, its value and where it came from.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

from service.config import Limits, ServeSettings, SettingsError, check_store, parse_address

ENVIRONMENT_PREFIX = "MIXFORMER_"


class Setting(NamedTuple):
    """One setting as flags, environment and file name it."""

    name: str
    type: Any
    default: object
    help: str
    is_limit: bool
    is_secret: bool

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
            yield Setting(each.name, hints[each.name], each.default, meta.description or "", is_limit, not each.repr)


# Set by the parent for its children; no flag and no file sets it.
_INTERNAL = {"worker_socket", "number"}
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (*_settings(ServeSettings, is_limit=False), *_settings(Limits, is_limit=True))
    if setting.name not in _INTERNAL
}

# Whoever is on the machine sees command lines.
FLAGS = {name: setting for name, setting in SETTINGS.items() if not setting.is_secret}

_CHECKS: dict[str, Callable[[str], object]] = {"listen": parse_address, "metrics": parse_address, "store": check_store}
# A password in a URL is not repeated.
_CREDENTIALS = re.compile(r"//[^/@]*@|password=[^&]*")

# Kubernetes puts such variables into every container for a Service whose name starts with "mixformer".
_SERVICE_LINK = re.compile(r"MIXFORMER(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


# The file of --config, and what `mixformer track` and the other clients take from the environment.
_NOT_OF_SERVE = {"CONFIG", "CLIENT_TOKEN", "DATA"}
# What a name has that was meant to be a secret's, before it was mistyped.
_SECRET_WORDS = ("token", "key", "secret", "password")


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
    for name in document:
        if name in SETTINGS and SETTINGS[name].is_secret:
            raise SettingsError(f"{name} (file {path}): stands in the environment or in a file of its own, never here")
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
        if name != variable and name not in _NOT_OF_SERVE and not _SERVICE_LINK.fullmatch(variable):
            yield name.lower(), _Given(value, f"environment {variable}")


def _convert(name: str, value: object, source: str) -> Any:
    if name not in SETTINGS:
        shown = "..." if any(word in name for word in _SECRET_WORDS) else repr(value)
        raise SettingsError(f"{name}={shown} ({source}): there is no such setting")
    try:
        converted = msgspec.convert(value, SETTINGS[name].type, strict=False)
        if name in _CHECKS:
            _CHECKS[name](converted)
    except ValueError as error:
        shown = _CREDENTIALS.sub("***", repr(value))
        raise SettingsError(f"{name}={shown} ({source}): {error}") from error
    return converted


def _sources(message: str, given: Mapping[str, _Given]) -> str:
    return ", ".join(f"{name} from {each.source}" for name, each in given.items() if name in message.split())
