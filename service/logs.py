"""Set-up of logging for the service's processes: one event a line on standard error, for people or for machines."""

import atexit
import logging
import os
import sys
from datetime import UTC, datetime

import msgspec

_TEXT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """An event as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with time (UTC), level, process, logger, message and, where there is one, the traceback."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event).decode()


def set_up(level: str, log_format: str) -> None:
    """Log events from `level` ("debug" to "error") on, as `log_format` says ("text" or "json")."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    atexit.register(_give_up_unwritten)


def _give_up_unwritten() -> None:
    """Let go of events that a full disk did not take: the interpreter would try once more and end with status 120 for it."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
