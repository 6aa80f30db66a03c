"""8-bit integers: how many times faster than float32 the same network is, one session, templates remembered, on a CPU."""

import torch

from benchmarks.networks import folded_network, random_ranges, search_crops, template_crops
from benchmarks.timing import Figure, Options, ratio, seconds_in_turn
from model.compiled import CompiledMixFormer
from service.cpu import has_native_int8, usable_cores

VARIANTS = ("mixvit_tiny", "mixcvt_base")


def measure(options: Options) -> dict[str, Figure]:
    """Nothing where the CPU has no instructions for it: the service does not take them there either."""
    return {f"{name}_int8_speedup": _speedup(name, options) for name in VARIANTS if has_native_int8()}


@torch.inference_mode()
def _speedup(name: str, options: Options) -> Figure:
    model, threads = folded_network(name), options.threads or usable_cores()
    search, memory = search_crops(model), model.encode(template_crops(model))
    networks = {
        "float32": CompiledMixFormer(model, threads),
        "int8": CompiledMixFormer(model, threads, ranges=random_ranges(model)),
    }
    runs = {precision: lambda network=network: network.track(search, memory) for precision, network in networks.items()}
    return ratio(seconds_in_turn(runs, options), "float32", "int8")
