"""MixViT-tiny: the share of the machine's arithmetic rate that its pass reaches, by one large matrix product of the same precision."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import folded_network, search_crops, template_crops
from benchmarks.timing import Figure, Options, seconds_in_turn
from model.memory import TemplateMemory
from model.mixformer import MixFormer
from service.device import choose_network

VARIANT = "mixvit_tiny"
GEMM_SIDE = 2048


@torch.inference_mode()
def measure(options: Options) -> dict[str, Figure]:
    """FLOP/s of the pass over FLOP/s of the product, and both."""
    model = folded_network(VARIANT)
    served = choose_network(model, precision="float32", threads=options.threads)
    search, memory = search_crops(model), model.encode(template_crops(model))
    left, right = torch.randn(2, GEMM_SIDE, GEMM_SIDE)
    of_pass, of_gemm = count_flops(model, search, memory), 2 * GEMM_SIDE**3
    seconds = seconds_in_turn({"gemm": lambda: left @ right, "pass": lambda: served.track(search, memory)}, options)
    pairs = zip(seconds["pass"], seconds["gemm"], strict=True)
    shares = [of_pass / ours / (of_gemm / gemm) for ours, gemm in pairs]
    raw = {f"{name}_seconds": values for name, values in seconds.items()} | {"pass_gflop": [of_pass / 1e9]}
    return {
        "mixvit_tiny_share_of_gemm": Figure.of(shares, "ratio", raw),
        "gemm_gflops": Figure.of([of_gemm / each / 1e9 for each in seconds["gemm"]], "GFLOP/s"),
    }


def count_flops(model: MixFormer, search: torch.Tensor, memory: TemplateMemory) -> int:
    """Floating-point operations of matrix products and convolutions in one pass."""
    # The counter knows attention only as the products it is made of.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.track(search, memory)
    return int(counter.get_total_flops())
