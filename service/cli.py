"""The command `mixformer`: reads its arguments and hands them to the module that carries the subcommand out.

That module is imported by its name, once it is known which one it is: `track` in this process and `convert` need torch, which takes
seconds to import and which a machine that only sends frames does not have.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from service.commands.arguments import parse
from service.commands.command import CommandError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. The exit code: 0 for success, 2 for a wrong command line or setting, 1 for what failed later."""
    parsed = parse(arguments)
    # Before gRPC is imported: it would tell of every connection that ends.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        exit_code: int = import_module(parsed.module).run(parsed)
        _flush()
    except (CommandError, OSError) as error:
        print(f"mixformer {parsed.command}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, CommandError) else 1
    except KeyboardInterrupt:
        return 130
    return exit_code


def _flush() -> None:
    """Print all there is: a pipe that nobody reads and a full disk are to show here, not as the interpreter's last words."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = sys.stderr  # what it still holds would fail once more at the end
        raise
