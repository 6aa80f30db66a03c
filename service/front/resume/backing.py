"""Where sessions are kept besides this process, as the settings say: in the store, and with their clients."""

from pathlib import Path
from typing import NamedTuple

from service.config import ServeSettings, SettingsError
from service.front.resume.journal import Journal
from service.front.resume.snapshot import Snapshots
from service.front.resume.store import SessionStore, is_installed
from service.front.resume.token_keys import Keys, parse_keys
from service.front.telemetry.session_metrics import SessionMetrics
from service.watched import Watched


class Backing(NamedTuple):
    """A store, what is on its way there, and how a session looks in it."""

    store: SessionStore
    journal: Journal
    snapshots: Snapshots


def backing_of(settings: ServeSettings, snapshots: Snapshots, metrics: SessionMetrics) -> Backing | None:
    """The store that the settings name, not connected yet; None where they name none. Raises SettingsError."""
    if not settings.store:
        return None
    if not is_installed:
        raise SettingsError(f"store={settings.store!r}: the package `redis` is not installed (mixformer-service[redis])")
    try:
        password = Path(settings.store_password_file).read_text().strip() if settings.store_password_file else None
    except (OSError, ValueError) as error:
        raise SettingsError(f"store_password_file={settings.store_password_file!r} cannot be read: {error}") from error
    try:
        store = SessionStore(settings.store, password, settings.store_timeout_seconds, metrics.on_store)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"store={settings.store!r}: {error}") from error
    journal = Journal(store, snapshots, settings.store_interval_seconds, settings.store_interval_frames, metrics)
    return Backing(store, journal, snapshots)


def keys_of(settings: ServeSettings) -> Watched[Keys] | None:
    """The keys of resume tokens, read again when their file changes; None where there is none. Raises SettingsError."""
    if not settings.token_keys:
        return None
    try:
        return Watched((Path(settings.token_keys),), parse_keys)
    except (OSError, ValueError) as error:
        raise SettingsError(f"token_keys={settings.token_keys!r} cannot be used: {error}") from error
