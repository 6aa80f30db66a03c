"""`mixformer serve`: the settings from all their sources, then the service."""

import argparse
import os
from dataclasses import replace

from service.commands.command import CommandError
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import ServeSettings, SettingsError
from service.logs import set_up
from service.server import serve
from service.sources import FLAGS, load_settings


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes. The exit code; raises CommandError where a setting is wrong."""
    try:
        settings = settings_of(arguments)
        set_up(settings.log_level, settings.log_format)
        return serve(settings)
    except SettingsError as error:
        raise CommandError(str(error), exit_code=2) from error


def settings_of(arguments: argparse.Namespace) -> ServeSettings:
    """The settings of this start. Raises SettingsError."""
    flags = {name: getattr(arguments, name) for name in FLAGS}
    settings = load_settings(flags, os.environ, arguments.config)
    return settings if settings.weights else replace(settings, weights=str(DEFAULT_WEIGHTS))
