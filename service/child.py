"""What a process that the parent started has in common with its siblings."""

import os
import sys
import threading
from typing import NoReturn

from service.config import SIMULATED_DEVICE, ServeSettings

EXIT_BAD_SETTINGS = 78
"""Status of a child that would fail again if it were started again (EX_CONFIG of sysexits.h)."""


def worker_module(device: str) -> str:
    """What `python -m` is to run as the worker of a device."""
    return "service.worker.simulated" if device == SIMULATED_DEVICE else "service.worker.runner"


def begin() -> ServeSettings:
    """The settings, from the first line of standard input; from then on this process ends with its parent.

    Standard input stays open for as long as the parent lives, however it ends. Raises SettingsError.
    """
    settings = ServeSettings.from_json(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_parent, name="parent watch", daemon=True).start()
    return settings


def _exit_with_parent() -> NoReturn:
    # Nothing is worth finishing without a parent, and a stuck device must not keep the process.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)
