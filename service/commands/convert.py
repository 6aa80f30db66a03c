"""`mixformer convert`: an official checkpoint as a safetensors file."""

import argparse

from model.checkpoint import convert
from model.official import CheckpointError
from service.commands.command import CommandError


def run(arguments: argparse.Namespace) -> int:
    """Write the destination and say what it holds. The exit code; raises CommandError, OSError where it cannot be written."""
    if arguments.source.suffix == ".safetensors":
        raise CommandError(f"{arguments.source}: the source is a .safetensors file already", exit_code=2)
    if arguments.destination.suffix != ".safetensors":
        raise CommandError(f"{arguments.destination}: the destination is a .safetensors file", exit_code=2)
    try:
        config = convert(arguments.source, arguments.destination, arguments.variant)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    print(f"{arguments.destination}: {config.name}")
    return 0
