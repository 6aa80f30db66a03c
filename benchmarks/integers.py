"""8-bit integers: how many times faster than float32 the shipped weights are, one session, templates remembered, on a CPU."""

import torch

from benchmarks.networks import search_crops, template_crops
from benchmarks.timing import Figure, Options, ratio, seconds_in_turn
from model.checkpoint import load_model
from model.compiled import CompiledMixFormer
from service.commands.weights import DEFAULT_WEIGHTS
from service.cpu import has_native_int8, usable_cores


@torch.inference_mode()
def measure(options: Options) -> dict[str, Figure]:
    """Nothing where the CPU has no instructions for it: the service does not take them there either."""
    if not has_native_int8():
        return {}
    loaded, threads = load_model(DEFAULT_WEIGHTS), options.threads or usable_cores()
    search, memory = search_crops(loaded.model), loaded.model.encode(template_crops(loaded.model))
    networks = {
        "float32": CompiledMixFormer(loaded.model, threads),
        "int8": CompiledMixFormer(loaded.model, threads, ranges=loaded.ranges),
    }
    runs = {precision: lambda network=network: network.track(search, memory) for precision, network in networks.items()}
    return {"mixvit_tiny_int8_speedup": ratio(seconds_in_turn(runs, options), "float32", "int8")}
