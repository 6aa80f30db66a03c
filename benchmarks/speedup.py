"""MixCvT base: our pass against the original's way, one session, templates remembered, float32."""

import torch

from benchmarks import original
from benchmarks.networks import folded_network, random_network, search_crops, template_crops
from benchmarks.timing import Figure, Options, ratio, seconds_in_turn
from service.device import choose_network

VARIANT = "mixcvt_base"


@torch.inference_mode()
def measure(options: Options) -> dict[str, Figure]:
    """How many times faster, and our frames a second. Raises ValueError where the two do not give the same boxes."""
    theirs, ours = random_network(VARIANT), choose_network(folded_network(VARIANT), threads=options.threads)
    theirs.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    templates, search = template_crops(ours), search_crops(ours)
    kept, memory = original.remember(theirs, templates), ours.encode(templates)
    expected, found = original.track(theirs, search, kept).boxes, ours.track(search, memory).boxes
    if not torch.allclose(found, expected, atol=1e-4):
        raise ValueError(f"boxes {found.tolist()} differ from the original's {expected.tolist()}")
    runs = {"original": lambda: original.track(theirs, search, kept), "ours": lambda: ours.track(search, memory)}
    seconds = seconds_in_turn(runs, options)
    return {
        "mixcvt_speedup_over_original": ratio(seconds, "original", "ours"),
        "mixcvt_fps_one_session": Figure.of([1 / each for each in seconds["ours"]], "frames/s"),
    }
