"""One video in one process: a target and the network, for scripts, evaluation and training."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from model.config import UpdateRule
from model.crop import Image
from model.geometry import Box, CropBox
from model.memory import TemplateMemory
from model.mixformer import Network
from model.target import Target, TargetReport

T = TypeVar("T")


class Tracker:
    """Follows one target. Frames are uint8 RGB [H, W, 3]; boxes are pixels of the frame."""

    def __init__(self, model: Network, rule: UpdateRule) -> None:
        """`model` as `load_model` gives it, folded, in evaluation mode, on the device it is to run on; or compiled from it."""
        self._model = model
        self._rule = rule
        self._target: Target | None = None
        self._memory: TemplateMemory | None = None

    def start(self, image: Image, box: Box) -> TargetReport:
        """Begin with the target at `box`. Raises ValueError where the box cannot be used."""
        self._target = Target.start(self._model.config, self._rule, image, box)
        self._memory = None
        return self._target.report

    def track(self, image: Image) -> TargetReport:
        """Find the target in the next frame. Raises RuntimeError before `start`, NonFinitePredictionError as Target does."""
        if self._target is None:
            raise RuntimeError("track before start")
        if self._memory is None:
            self._memory = self._run(lambda crops: self._model.encode(crops[None]), np.stack(self._target.templates))
        memory = self._memory
        prediction = self._run(lambda crops: self._model.track(crops[None], memory), self._target.search(image))
        score = None if prediction.scores is None else float(prediction.scores[0])
        report = self._target.advance(image, CropBox(*prediction.boxes[0].tolist()), score)
        if report.template_updated:
            self._memory = None
        return report

    def miss(self) -> TargetReport:
        """Take note that a frame gave no answer. Raises RuntimeError before `start`."""
        if self._target is None:
            raise RuntimeError("miss before start")
        return self._target.miss()

    @torch.inference_mode()
    def _run(self, step: Callable[[torch.Tensor], T], crops: Image) -> T:
        return step(torch.from_numpy(crops).to(self._model.device))
