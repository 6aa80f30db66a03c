"""One tracked target: where it is, how sure we are, and when its templates are renewed.

Holds everything a tracker must not forget between frames, in plain values and uint8 crops; the network's memory is derived from
`templates`. The rules are those of the original's tracker (`MixFormerOnline.track`, lib/test/tracker/mixformer_cvt_online.py).
"""

import hashlib
import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from model.config import ModelConfig, UpdateRule
from model.crop import LARGEST_SIDE, Image, cut
from model.geometry import Box, CropBox, CropWindow, clip, crop_window, meets_frame, to_frame


class TargetStatus(IntEnum):
    """How far a target's box can be trusted. UNSPECIFIED: the network has no score head."""

    UNSPECIFIED = 0
    TRACKED = 1
    UNCERTAIN = 2
    LOST = 3


class TargetReport(NamedTuple):
    """What is known of a target after a frame. score in [0, 1], None without a score head."""

    box: Box
    score: float | None
    status: TargetStatus
    frames_since_tracked: int
    template_updated: bool


class NonFinitePredictionError(ValueError):
    """The network's answer is not a number; the target was left as it was."""


@dataclass
class TargetState:
    """The whole state of a target: plain values and crops, enough to go on anywhere.

    `frames` counts predictions, `best_score` and `candidate` the best since the last renewal; `next_replaced` is the online
    template that a full ring gives up next; `low_frames` counts frames in a row below the rule's lost_threshold. `sought`: the box
    to search around where that is not the report's, but one of another size with the same centre (the rule's hold_size).
    """

    report: TargetReport
    template: Image
    online: list[Image]
    candidate: Image
    best_score: float = -1.0
    frames: int = 0
    next_replaced: int = 0
    low_frames: int = 0
    sought: Box | None = None


def next_status(rule: UpdateRule, status: TargetStatus, low_frames: int, score: float) -> TargetStatus:
    """The status after a frame of this score: the `low_frames`th in a row below the rule's lost_threshold, after `status`."""
    if status is TargetStatus.LOST and score < rule.found_threshold:
        return TargetStatus.LOST
    if low_frames >= rule.lost_after:
        return TargetStatus.LOST
    return TargetStatus.UNCERTAIN if score < rule.uncertain_threshold else TargetStatus.TRACKED


class Target:
    """A target and its update rule. Frames are uint8 RGB [H, W, 3]; boxes are pixels of the frame."""

    def __init__(self, config: ModelConfig, rule: UpdateRule, state: TargetState) -> None:
        """Goes on from `state`; `Target.start` begins with a first box."""
        self._config = config
        self._rule = rule
        self.state = state
        self._key: bytes | None = None
        # Asked for four times a frame.
        self._window: tuple[Box, CropWindow] | None = None

    @classmethod
    def start(cls, config: ModelConfig, rule: UpdateRule, image: Image, box: Box) -> "Target":
        """A target that the client says is at `box`. Raises ValueError where the box is empty, not finite or outside the frame."""
        check_box(config, box, image.shape[1], image.shape[0])
        template = cut(image, crop_window(box, config.template_factor), config.template_size)
        status = TargetStatus.TRACKED if config.has_score_head else TargetStatus.UNSPECIFIED
        score = 1.0 if config.has_score_head else None
        report = TargetReport(box, score, status, 0, template_updated=True)
        return cls(config, rule, TargetState(report, template, [template], template))

    @property
    def report(self) -> TargetReport:
        """The last frame's report; on the first frame the given box, whose presence is the client's word (score 1)."""
        return self.state.report

    @property
    def templates(self) -> tuple[Image, ...]:
        """The crops the network's memory is made of: the template, then the online templates, uint8 [T, T, 3] each."""
        return (self.state.template, *self.state.online)

    @property
    def memory_key(self) -> bytes:
        """16 bytes that name the memory: a hash of the variant and the ordered templates."""
        if self._key is None:
            digest = hashlib.blake2b(self._config.name.encode(), digest_size=16)
            for crop in self.templates:
                digest.update(crop.tobytes())
            self._key = digest.digest()
        return self._key

    @property
    def search_window(self) -> CropWindow:
        """The part of the next frame that `search` looks at."""
        box = self._sought
        if self._window is None or self._window[0] is not box:
            self._window = box, crop_window(box, self._config.search_factor)
        return self._window[1]

    def search(self, image: Image) -> Image:
        """The crop of `search_window`, uint8 [S, S, 3]. Raises ValueError where it misses the frame (another camera?)."""
        return cut(image, self.search_window, self._config.search_size)

    def relocate(self, box: Box, frame_width: int, frame_height: int) -> None:
        """Look around `box` from now on, with the same templates. Raises ValueError where the box cannot be used."""
        check_box(self._config, box, frame_width, frame_height)
        self.state.report = self.report._replace(box=box)
        self.state.sought = None

    def located(self, image: Image, prediction: CropBox) -> Box:
        """The box in the frame that a prediction made on `search(image)` means. Only the frame's size is looked at.

        Raises NonFinitePredictionError where the prediction is not a number.
        """
        if not all(map(math.isfinite, prediction)):
            raise NonFinitePredictionError(f"prediction {tuple(prediction)} is not finite")
        box = to_frame(prediction, self._sought, self.search_window.side)
        return clip(box, image.shape[1], image.shape[0])

    def view_window(self, box: Box) -> CropWindow:
        """The part of a frame that becomes a template, or a candidate for one, of a target at `box`."""
        return crop_window(box, self._config.template_factor)

    def view(self, image: Image, box: Box) -> Image:
        """The crop of `view_window(box)`, uint8 [T, T, 3]."""
        return cut(image, self.view_window(box), self._config.template_size)

    def wants_view(self, score: float | None) -> bool:
        """Whether `advance` with this score makes the frame's view a template, or a candidate for one."""
        rule, state = self._rule, self.state
        if score is None:  # the original's offline variant takes the current box, whatever it shows
            return (state.frames + 1) % rule.update_interval == 0
        return score > rule.candidate_threshold and score > state.best_score * rule.score_decay

    def advance(self, image: Image, prediction: CropBox, score: float | None, view: Image | None = None) -> TargetReport:
        """Take a prediction made on `search(image)`, renew templates where the rule says so, and report.

        `view` is what `view` gives at the predicted box, where it was cut elsewhere; without it, it is cut here if wanted.
        Raises NonFinitePredictionError, with nothing changed, where the prediction is not a number.
        """
        box = self.located(image, prediction)
        if score is not None and not math.isfinite(score):
            raise NonFinitePredictionError(f"score {score} is not finite")
        if not self.wants_view(score):
            view = None
        elif view is None:
            view = self.view(image, box)
        self.state.frames += 1
        status = self._status(score)
        renewed = self._renew(view, score, status)
        self.state.sought = self._resized(box, status)
        since = 0 if status in (TargetStatus.TRACKED, TargetStatus.UNSPECIFIED) else self.report.frames_since_tracked + 1
        self.state.report = TargetReport(box, score, status, since, renewed)
        return self.state.report

    def miss(self) -> TargetReport:
        """Take note of a frame that gave no answer, and report where the target was: no longer TRACKED, else of the same status."""
        last = self.report
        status = TargetStatus.UNCERTAIN if last.status is TargetStatus.TRACKED else last.status
        self.state.report = TargetReport(last.box, None, status, last.frames_since_tracked + 1, template_updated=False)
        return self.state.report

    @property
    def _sought(self) -> Box:
        """What the search window is put around."""
        return self.state.sought or self.report.box

    def _resized(self, box: Box, status: TargetStatus) -> Box | None:
        """A doubtful `box` in the size that was searched for before, where the rule holds it."""
        if not self._rule.hold_size or status in (TargetStatus.TRACKED, TargetStatus.UNSPECIFIED):
            return None
        _, _, width, height = self._sought
        return Box(box.x + 0.5 * (box.width - width), box.y + 0.5 * (box.height - height), width, height)

    def _status(self, score: float | None) -> TargetStatus:
        if score is None:
            return TargetStatus.UNSPECIFIED
        self.state.low_frames = self.state.low_frames + 1 if score < self._rule.lost_threshold else 0
        return next_status(self._rule, self.report.status, self.state.low_frames, score)

    def _renew(self, view: Image | None, score: float | None, status: TargetStatus) -> bool:
        """Keep the best recent view (None: this frame's is not) as candidate and, every interval, make it an online template. Whether the templates changed."""
        rule, state = self._rule, self.state
        state.best_score *= rule.score_decay
        if score is None:
            return view is not None and self._replace([view])
        if view is not None:
            state.candidate = view
            state.best_score = score
        if state.frames % rule.update_interval != 0:
            return False
        if not rule.renew_when_uncertain and (status is not TargetStatus.TRACKED or state.candidate is state.template):
            return False
        online = list(state.online)
        if len(online) > rule.online_size:  # other options than before: the newest stay
            online = [*online[state.next_replaced :], *online[: state.next_replaced]][-rule.online_size :]
            state.next_replaced = 0
        if len(online) < rule.online_size:
            online.append(state.candidate)
        else:
            online[state.next_replaced] = state.candidate
            state.next_replaced = (state.next_replaced + 1) % rule.online_size
        state.best_score = -1.0
        state.candidate = state.template
        return self._replace(online)

    def _replace(self, online: list[Image]) -> bool:
        before = self.memory_key
        self.state.online = online
        self._key = None
        return self.memory_key != before


def check_box(config: ModelConfig, box: Box, frame_width: int, frame_height: int) -> None:
    """Raises ValueError, with the numbers, where a client's box is not finite, empty, nowhere in the frame or far too large."""
    side = crop_window(box, config.search_factor).side
    where = f"box {box.width:g}x{box.height:g} at {box.x:g},{box.y:g}"
    inside = box.x < frame_width and box.y < frame_height and box.x + box.width > 0 and box.y + box.height > 0
    if not inside or not meets_frame(crop_window(box, 1.0), frame_width, frame_height):
        raise ValueError(f"{where} is outside the frame of {frame_width}x{frame_height}")
    if side > LARGEST_SIDE:
        raise ValueError(f"{where} needs a search window of {side} pixels, over {LARGEST_SIDE}")
