"""`mixformer loadtest --export-ghz FOLDER`: a clip as data files for ghz, one for each way of calling.

Both files are static. Which session is meant stands in ghz's metadata (`x-session-id`, one for each of its workers), and every
message carries `ensure`: whichever comes first begins the session, and no other one moves its target.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.proto import serialize_length_prefixed

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import to_frame
from service.commands.clip import Clip
from service.commands.command import CommandError

UNARY_FILE = "track.bin"
STREAM_FILE = "track_stream.data.json"


def export(clip: Clip, folder: Path) -> list[Path]:
    """Write the clip as length-delimited `TrackRequest`s and as a JSON array of `TrackStreamRequest`s; gives the two paths.

    The clip runs forth and back once, so that ghz, which begins again at its end, never makes the target jump. Raises
    CommandError where the folder cannot be written to.
    """
    unary, stream = folder / UNARY_FILE, folder / STREAM_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unary.open("wb") as file:
            for frame, command in _messages(clip):
                request = pb.TrackRequest(frame=frame, targets=[command])
                serialize_length_prefixed(request, file)  # type: ignore[arg-type]  # any binary file will do
        stream.write_bytes(msgspec.json.encode([MessageToDict(each) for each in _stream_requests(clip)]))
    except OSError as error:
        raise CommandError(f"{folder} cannot be written to: {error}") from error
    return [unary, stream]


def _messages(clip: Clip) -> Iterator[tuple[pb.Frame, pb.TargetCommand]]:
    box = pb.BoundingBox(**clip.box._asdict())
    for number in range(max(1, 2 * len(clip.frames) - 2)):
        yield to_frame(number, clip.frame(number)), pb.TargetCommand(ensure=box)


def _stream_requests(clip: Clip) -> Iterator[pb.TrackStreamRequest]:
    """The config stands in the first one alone: the server takes it again, unchanged, when ghz begins again there."""
    for frame, command in _messages(clip):
        request = pb.TrackStreamRequest(frame=frame, targets=[command])
        if frame.frame_number == 0:
            request.config.SetInParent()
        yield request
