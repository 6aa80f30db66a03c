"""`python -m benchmarks`: run all, print a table, write the figures with their raw numbers to latest.json."""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import arithmetic, decoding, front, gpu, precision, service, sessions, sharing, speedup, watching
from benchmarks.timing import CLOCKS, Figure, Options
from service.cpu import has_native_bfloat16, has_native_int8, usable_cores

BENCHMARKS: dict[str, Callable[[Options], dict[str, Figure]]] = {
    "speedup": speedup.measure,
    "arithmetic": arithmetic.measure,
    "precision": precision.measure,
    "sessions": sessions.measure,
    "gpu": gpu.measure,
    "service": service.measure,
    "front": front.measure,
    "decoding": decoding.measure,
    "watching": watching.measure,
    "sharing": sharing.measure,
}
LATEST = Path(__file__).parent / "latest.json"
SOME = Path("build/benchmarks.json")


def main() -> None:
    """Run what the command line asks for. A run of some benchmarks leaves the figures of the last whole one alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="which, all by default")
    parser.add_argument("--repeats", type=int, default=15, help="rounds of every comparison (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0 means every core this process may use")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use too, with --threads 1"
    )
    parser.add_argument("--output", type=Path, help=f"default {LATEST.name} beside the benchmarks, for some of them {SOME}")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error(f"--repeats {arguments.repeats}: quartiles need at least 2")
    # Before the figures, which take minutes.
    output: Path = arguments.output or (LATEST if set(arguments.only) == set(BENCHMARKS) else SOME)
    output.parent.mkdir(parents=True, exist_ok=True)
    options = Options(arguments.repeats, arguments.clock, arguments.threads)
    torch.set_num_threads(options.threads or usable_cores())
    figures: dict[str, Figure] = {}
    for name in arguments.only:
        found = BENCHMARKS[name](options)
        figures |= found
        print("\n".join(_line(*each) for each in found.items()), flush=True)
    output.write_text(json.dumps(_report(figures, options), indent=1) + "\n")


def _line(name: str, figure: Figure) -> str:
    return (
        f"{name:42} {figure.value:9.3f} {figure.unit:10} quartiles {figure.lower_quartile:.3f} to {figure.upper_quartile:.3f}"
    )


def _report(figures: dict[str, Figure], options: Options) -> dict[str, object]:
    """The medians by name, then what they come from."""
    machine = {
        "cpu": platform.processor() or platform.machine(), "int8": has_native_int8(), "bfloat16": has_native_bfloat16(),
        "cores": usable_cores(), "torch": torch.__version__,
    }  # fmt: skip
    details = {name: asdict(figure) for name, figure in figures.items()}
    return {name: figure.value for name, figure in figures.items()} | {
        "options": asdict(options), "machine": machine, "details": details,
    }  # fmt: skip


if __name__ == "__main__":
    main()
