"""The command line of `mixformer` as values. Imports nothing heavy, so that `--help` and a wrong flag answer at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from model.config import MAX_ONLINE_TEMPLATES, VARIANTS
from service.commands.command import parse_box, parse_size, positive_float, positive_int, seconds
from service.sources import FLAGS, Setting

DEFAULT_SERVER = "127.0.0.1:50051"
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
OVERLOAD_POLICIES = ("block", "drop-oldest")


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (--help says more)\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as values; `module` is the one that carries it out. Ends the process where it is wrong."""
    parser = Parser(prog="mixformer", description="Track what a client points at, over the frames it sends.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run the service"))
    track = commands.add_parser("track", help="track targets in a video or a folder of pictures")
    _add_track(track)
    loadtest = commands.add_parser("loadtest", help="load a running service with many streams")
    _add_loadtest(loadtest)
    _add_healthcheck(commands.add_parser("healthcheck", help="exit 0 only when a service is ready"))
    _add_convert(commands.add_parser("convert", help="write an official checkpoint as safetensors"))
    parsed = parser.parse_args(arguments)
    if parsed.command == "track":
        _complete_track(track, parsed)
    if parsed.command == "loadtest" and (parsed.source is None) != (parsed.box is None):
        loadtest.error("--source and --box belong together")
    return parsed


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the service. A flag beats MIXFORMER_<NAME> in the environment, which beats the file of --config."
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML, limits under [limits]")
    for setting in FLAGS.values():
        flag = f"--{setting.name.replace('_', '-')}"
        if setting.default is False:
            parser.add_argument(flag, action="store_const", const=True, help=setting.help)
            continue
        default = "" if setting.default == "" else f" (default: {setting.default})"
        parser.add_argument(flag, metavar=_metavar(setting), help=setting.help + default)
    parser.set_defaults(module="service.commands.serve")


def _metavar(setting: Setting) -> str:
    """What stands for the value in the help: its choices, its unit where it is a time, N for a number, else the name's last word."""
    last = setting.name.split("_")[-1]
    if isinstance(setting.default, int | float) and last not in ("seconds", "ms"):
        return "N"
    return "|".join(setting.choices) or last.upper()


def _add_track(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="VIDEO_OR_FOLDER", help="a video, or a folder of pictures in name order")
    parser.add_argument(
        "--box", type=parse_box, action="append", required=True, dest="boxes", metavar="x,y,w,h",
        help="the target on the first frame, in pixels; once for each target",
    )  # fmt: skip
    parser.add_argument("--server", metavar="HOST:PORT", help="track through a running service instead of in this process")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint (default: the one that comes along)")
    parser.add_argument("--variant", choices=VARIANTS, help="variant of the network (default: the one the checkpoint names)")
    parser.add_argument("--precision", choices=PRECISIONS, help="arithmetic of the network (default: auto)")
    parser.add_argument("--update-interval", type=positive_int, metavar="FRAMES", help="frames between template renewals")
    parser.add_argument(
        "--online-size", type=int, choices=range(1, MAX_ONLINE_TEMPLATES + 1), help="online templates kept at most"
    )  # fmt: skip
    _add_access(parser)
    _add_patience(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="write one JSON object a frame")
    parser.add_argument("--video", type=Path, metavar="OUT.mp4", help="write the frames with the boxes drawn in")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_access(parser: argparse.ArgumentParser) -> None:
    access = parser.add_argument_group("connection to the server")
    access.add_argument("--tls", action="store_true", help="by TLS, with the authorities that gRPC knows")
    access.add_argument("--tls-ca", type=Path, metavar="FILE", help="by TLS, with these authorities (PEM)")
    access.add_argument(
        "--tls-name", default="", metavar="NAME", help="the server's name in its certificate (default: its host)"
    )
    access.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate of this client (PEM)")
    access.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    access.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token (default: MIXFORMER_CLIENT_TOKEN)")


def _add_patience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience", type=seconds, default=30.0, metavar="SECONDS",
        help="how long a session whose stream broke is taken up again, here or on another server; 0: not at all (default: 30)",
    )  # fmt: skip


def _complete_track(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if parsed.server is None:
        parsed.module = "service.commands.track_local"
        for flag in ("tls", "tls_ca", "tls_cert", "tls_key", "tls_name", "token_file"):
            if getattr(parsed, flag):
                parser.error(f"--{flag.replace('_', '-')} needs --server")
        return
    parsed.module = "service.commands.track_server"
    for flag in ("weights", "variant", "precision"):
        if getattr(parsed, flag) is not None:
            parser.error(f"--{flag} is the server's to choose; it cannot be given with --server")


def _add_loadtest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="HOST:PORT", help="default: %(default)s")
    _add_access(parser)
    parser.add_argument("--streams", type=positive_int, default=4, help="streams, one target each (default: %(default)s)")
    parser.add_argument(
        "--rate", type=positive_float, default=25.0, metavar="HZ", help="frames a second of one stream (default: %(default)s)"
    )  # fmt: skip
    parser.add_argument("--duration", type=positive_float, default=10.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--source", type=Path, metavar="VIDEO_OR_FOLDER", help="frames to send (default: a made-up clip)")
    parser.add_argument("--box", type=parse_box, metavar="x,y,w,h", help="the target on the first frame of --source")
    parser.add_argument(
        "--size", type=parse_size, default=(1280, 720), metavar="WxH", help="size of the made-up frames (default: 1280x720)"
    )  # fmt: skip
    parser.add_argument(
        "--export-ghz", type=Path, metavar="FOLDER", help="send nothing: write the frames as data files for ghz (deploy/ghz)"
    )  # fmt: skip
    _add_patience(parser)
    parser.add_argument("--policy", choices=OVERLOAD_POLICIES, default="block", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(module="service.commands.loadtest")


def _add_healthcheck(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="HOST:PORT", help="default: %(default)s")
    _add_access(parser)
    parser.add_argument(
        "--service", default="", metavar="NAME", help="one of the server's services (default: the server itself)"
    )
    parser.add_argument("--timeout", type=positive_float, default=5.0, metavar="SECONDS", help="default: %(default)s")
    parser.set_defaults(module="service.commands.healthcheck")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="official checkpoint (.pth, .pth.tar)")
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="file to write (.safetensors)")
    parser.add_argument("--variant", choices=VARIANTS, help="variant of the network (default: told from the shapes)")
    parser.set_defaults(module="service.commands.convert")
