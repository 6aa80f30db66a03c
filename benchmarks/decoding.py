"""What decoding only the rows that a crop looks at saves, against OpenCV's decoding of the whole picture.

A 1080p JPEG (quality 85, 370 KB) and a search window of a quarter of each side, at several heights of the frame: what is below
the window is not decoded, what is above it has to be.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from benchmarks.timing import Figure, Options, ratio, seconds_in_turn
from service.commands.synthetic import synthetic_clip
from service.config import Limits
from service.decode import decode, decode_top

WIDTH, HEIGHT = 1920, 1080
QUALITY = 85
# Where the window's upper edge is, as a share of the way it can go.
PLACES = {"top": 0.0, "upper_quarter": 0.25, "middle": 0.5, "lower_quarter": 0.75, "bottom": 1.0}


def measure(options: Options) -> dict[str, Figure]:
    """`roi_decode_share_of_full`, with the window in the middle; the same by place; our decoding of the whole picture."""
    data, limits = _photograph(), Limits()
    runs: dict[str, Callable[[], object]] = {"opencv": partial(_opencv, data), "whole": partial(decode, data, limits)}
    for place, share in PLACES.items():
        rows = round(share * (HEIGHT - HEIGHT // 4)) + HEIGHT // 4
        runs[place] = partial(decode_top, data, limits, rows)
    seconds = seconds_in_turn(runs, options)
    return {
        "roi_decode_share_of_full": ratio(seconds, "middle", "opencv"),
        **{f"roi_decode_share_of_full_{place}": ratio(seconds, place, "opencv") for place in PLACES},
        "whole_decode_share_of_opencv": ratio(seconds, "whole", "opencv"),
    }


def _photograph() -> bytes:
    """Structure of every size, and grain as a sensor's."""
    image, _ = next(synthetic_clip(WIDTH, HEIGHT, 1))
    grain = np.random.default_rng(0).normal(0, 4, image.shape)
    grainy = np.clip(image + grain, 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", grainy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def _opencv(data: bytes) -> object:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
