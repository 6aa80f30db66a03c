"""bfloat16 and 8-bit integers: how many times faster than float32 the shipped weights are, one session, templates remembered, on a CPU."""

import torch

from benchmarks.networks import in_reduced_precision, search_crops, template_crops
from benchmarks.timing import Figure, Options, ratio, seconds_in_turn
from model.checkpoint import load_model
from model.compiled import CompiledMixFormer
from service.commands.weights import DEFAULT_WEIGHTS
from service.cpu import usable_cores


@torch.inference_mode()
def measure(options: Options) -> dict[str, Figure]:
    """Those that the CPU has instructions for."""
    loaded, threads = load_model(DEFAULT_WEIGHTS), options.threads or usable_cores()
    search, memory = search_crops(loaded.model), loaded.model.encode(template_crops(loaded.model))
    reduced = in_reduced_precision(loaded.model, loaded.ranges, threads)
    networks = {"float32": CompiledMixFormer(loaded.model, threads)} | reduced
    runs = {precision: lambda network=network: network.track(search, memory) for precision, network in networks.items()}
    seconds = seconds_in_turn(runs, options)
    return {f"mixvit_tiny_{name}_speedup": ratio(seconds, "float32", name) for name in reduced}
