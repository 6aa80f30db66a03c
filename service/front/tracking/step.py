"""One frame through a session: decode, carry out its commands, track every target, report.

Crops are cut on the event loop: 0.02 to 0.3 ms each, less than a thread hop costs on a busy machine. Only windows over
`_LARGE_WINDOW` (one of 1500 pixels takes over a millisecond) and commands that start targets go to the decoding threads.

What a result says:

* PROCESSED: every command was carried out and at least one target has an answer (a target that starts on this frame has).
  A target that failed alone keeps its last box, has no score, is no longer TRACKED and is named in `error`.
* REJECTED: nothing could be done; `error` says why. Of the commands only `remove` counts.
* DROPPED: not looked at (too old, superseded, or the device is behind). A frame with commands is never dropped.

A target changes only after all answers are there, in one go: whoever is cancelled before leaves the session as it was.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from model.config import ModelConfig
from model.crop import Image
from model.geometry import Box, CropWindow
from model.target import NonFinitePredictionError, Target
from service.config import Limits
from service.decode import size_of
from service.errors import (
    BadBox,
    BadFrame,
    FrameShed,
    FrameSuperseded,
    FrameTooOld,
    NonFinitePrediction,
    NoTarget,
    ServiceError,
)
from service.failures import combined
from service.front.access.rates import Rates
from service.front.frames import Frame, FrameResult, Outcome, Timing
from service.front.telemetry.metrics import Metrics
from service.front.telemetry.traces import Traces
from service.front.tracking.admission import Admission
from service.front.tracking.budget import Decoded, DecodePool
from service.front.tracking.options import OverloadPolicy, SessionOptions
from service.front.tracking.session import Clock, Session, SessionState
from service.front.tracking.targets import Commanded, Kit, command, may_start, rebuilt, without_removed
from service.front.workers.fleet import Owner
from service.front.workers.items import Answer
from service.front.workers.memories import MemorySource

# Of a search window's side: where its lower edge may be by the time a frame that is decoded ahead is looked at.
_SLACK = 1.25
# Pixels of a side.
_LARGE_WINDOW = 1024

_log = logging.getLogger(__name__)


class Predictor(Protocol):
    """What a step needs of the workers."""

    async def submit(self, owner: Owner, target: MemorySource, search: bytes, expires_at: float | None) -> Answer:
        """Find the target in its search crop. Raises ServiceError, FrameTooOld where its turn has not come by `expires_at`."""


class FrameTracker:
    """Tracks frames, for whoever has the session's turn."""

    def __init__(
        self,
        predictor: Predictor,
        admission: Admission,
        pool: DecodePool,
        model: ModelConfig,
        limits: Limits,
        metrics: Metrics,
        clock: Clock,
        traces: Traces | None = None,
    ) -> None:
        self._predictor = predictor
        self._admission = admission
        self._pool = pool
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._rates = Rates(limits, clock.monotonic)
        self._traces = traces

    def close(self) -> None:
        """Give the decoding threads back, and send what waits of the traces."""
        self._pool.close()
        if self._traces is not None:
            self._traces.close()

    async def prepare(self, session: Session, frame: Frame, *, is_again: bool = False) -> Decoded | ServiceError:
        """The frame's picture, or why there is none; may be done while an earlier frame is tracked. `is_again`: its picture was let
        go of, which costs its client nothing.
        """
        try:
            self._check_age(session, frame)
            if frame.payload is None:
                raise BadFrame("message holds no picture")
            if frame.commands and not session.targets:
                self._admission.check_room(session.client)  # before the picture costs anything
            if not is_again:
                self._rates.take(session.client, size_of(frame.payload))
            with session.working():  # also while the frame waits for room
                decoded = await self._pool.decode(frame.payload, None if frame.commands else _rows_ahead(session.targets))
        except ServiceError as error:
            return error.told()
        except Exception:  # noqa: BLE001 - as in `track`
            return _fault(session, frame)
        self._metrics.on_decoded(decoded.seconds)
        return decoded

    async def track(self, session: Session, frame: Frame, prepared: Decoded | ServiceError) -> FrameResult:
        """The frame's result, whatever happens: one bad frame never ends a stream."""
        try:
            session.begin(frame.number)
            self._check_age(session, frame)
            if isinstance(prepared, ServiceError):
                raise prepared.told()
            result = await self._process(session, frame, prepared)
        except (FrameTooOld, FrameSuperseded, FrameShed) as error:
            result = FrameResult(frame.number, Outcome.DROPPED, {}, error.told(), Timing())
        except ServiceError as error:
            result = _rejected(session, frame, error.told())
        except Exception:  # noqa: BLE001 - a fault of ours on one frame must not end the stream either; it is logged whole
            result = _rejected(session, frame, _fault(session, frame))
        finally:
            session.finish()
        session.answer(frame.number, result.outcome)
        return self._answer(frame, result)

    def set_options(self, session: Session, options: SessionOptions) -> None:
        """Give the session other options; its targets go on under them."""
        before, after = self._kit(session.options), self._kit(options)
        session.options = options
        if after != before:
            session.commit(rebuilt(session.targets, after))

    def resume(self, session: Session, state: SessionState) -> None:
        """Have the session go on from `state`."""
        kit = self._kit(state.options)
        session.resume(state, {name: Target(kit.config, kit.rule, each) for name, each in state.targets.items()})

    def _answer(self, frame: Frame, result: FrameResult) -> FrameResult:
        total = self._clock.monotonic() - frame.arrived_at
        result = result._replace(timing=result.timing._replace(total=total))
        self._metrics.on_frame(result)
        if self._traces is not None:
            self._traces.on_frame(frame, result)
        return result

    def _check_age(self, session: Session, frame: Frame) -> None:
        expires_at = self._expiry(session, frame)
        if expires_at is not None and expires_at < (now := self._clock.monotonic()):
            limit = session.options.max_frame_age_seconds
            raise FrameTooOld(f"frame {frame.number} is {now - expires_at:.3f} s over max_frame_age, which is {limit:g} s")

    def _expiry(self, session: Session, frame: Frame) -> float | None:
        """When the frame is too old, in monotonic seconds; None where it never is."""
        limit = session.options.max_frame_age_seconds
        if limit is None or frame.capture_time is None or frame.commands:
            return None
        return self._clock.monotonic() + frame.capture_time + limit - self._clock.wall()

    def _kit(self, options: SessionOptions) -> Kit:
        config = replace(self._model, search_factor=options.search_factor)
        return Kit(config, options.rule, self._limits.max_targets_per_session)

    async def _process(self, session: Session, frame: Frame, picture: Decoded) -> FrameResult:
        if not session.targets and not frame.commands:
            raise NoTarget(f"session {session.session_id} has no target: send initialize or ensure with a frame")
        commanded = Commanded(dict(session.targets), frozenset())
        if frame.commands:
            commanded = await self._command(session, frame, picture.image)
        self._admit(session, frame, commanded)
        followed = {name: target for name, target in commanded.targets.items() if name not in commanded.started}
        picture = await self._showing(frame, picture, (target.search_window for target in followed.values()))
        asked_at = self._clock.monotonic()
        outcomes = await self._ask(session, followed, picture.image, self._expiry(session, frame))
        places = _places(followed, outcomes, picture.image)
        picture = await self._showing(frame, picture, (followed[name].view_window(box) for name, (box, _) in places.items()))
        views = await self._large_views(followed, places, picture.image)
        failures: dict[str, ServiceError] = {}
        for name, outcome in outcomes.items():
            answer = _advanced(followed[name], picture.image, outcome, views.get(name))
            if isinstance(answer, ServiceError):
                failures[name] = answer
        if failures and len(failures) == len(commanded.targets):
            raise combined(failures)
        for name in failures:
            followed[name].miss()
        session.commit(commanded.targets)
        reports = {name: target.report for name, target in commanded.targets.items()}
        error = combined(failures) if failures else None
        return FrameResult(frame.number, Outcome.PROCESSED, reports, error, _timing(picture, outcomes.values(), asked_at))

    async def _command(self, session: Session, frame: Frame, image: Image) -> Commanded:
        step = partial(command, session.targets, frame.commands, image, self._kit(session.options))
        return await self._pool.run(step) if may_start(session.targets, frame.commands) else step()

    def _admit(self, session: Session, frame: Frame, commanded: Commanded) -> None:
        """Raises Overloaded where the frame begins targets that the device has no room for, FrameShed where it is to be dropped."""
        begun = len(commanded.targets.keys() - session.targets.keys())
        if begun:
            self._admission.begin(begun, session.client)
        if not frame.commands and session.options.overload_policy is OverloadPolicy.DROP_OLDEST:
            self._admission.shed()

    async def _showing(self, frame: Frame, picture: Decoded, windows: Iterable[CropWindow]) -> Decoded:
        """The picture with all that the windows look at: a target may be lower than it was when the frame was decoded."""
        if frame.payload is None or picture.holds(windows):
            return picture
        whole = await self._pool.complete(frame.payload, picture)
        self._metrics.on_decoded(whole.seconds - picture.seconds)
        return whole

    async def _ask(
        self, session: Session, targets: Mapping[str, Target], image: Image, expires_at: float | None
    ) -> dict[str, Answer | ServiceError]:
        """The engine's answer for every target; all are asked at once, so that they can share a batch."""
        if len(targets) == 1:  # most sessions: a task of its own costs 40 us
            name, target = next(iter(targets.items()))
            return {name: await self._ask_one(session, target, image, expires_at)}
        asked = (self._ask_one(session, target, image, expires_at) for target in targets.values())
        return dict(zip(targets, await asyncio.gather(*asked), strict=True))

    async def _ask_one(self, session: Session, target: Target, image: Image, expires_at: float | None) -> Answer | ServiceError:
        try:
            search = await self._search(target, image)
        except ValueError as error:
            return BadBox(str(error))
        session.lend(target)
        try:
            with self._admission.passage():
                return await self._predictor.submit(session, target, search.tobytes(), expires_at)
        except ServiceError as error:
            return error.told()

    async def _search(self, target: Target, image: Image) -> Image:
        if target.search_window.side <= _LARGE_WINDOW:
            return target.search(image)
        return await self._pool.run(partial(target.search, image))

    async def _large_views(
        self, targets: Mapping[str, Target], places: Mapping[str, tuple[Box, float | None]], image: Image
    ) -> dict[str, Image]:
        """What the targets will keep of the frame, where it is too large to be cut on the event loop."""
        views = {}
        for name, (box, score) in places.items():
            target = targets[name]
            if target.view_window(box).side > _LARGE_WINDOW and target.wants_view(score):
                views[name] = await self._pool.run(partial(target.view, image, box))
        return views


def _rows_ahead(targets: Mapping[str, Target]) -> int | None:
    """How many rows of a frame that is decoded ahead will do, if its targets move no further than targets do."""
    windows = [target.search_window for target in targets.values()]
    return max((window.top + math.ceil(_SLACK * window.side) for window in windows), default=None)


def _places(
    targets: Mapping[str, Target], outcomes: Mapping[str, Answer | ServiceError], image: Image
) -> dict[str, tuple[Box, float | None]]:
    """Where the answers have the targets: box in the frame and score."""
    places = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, Answer):
            with contextlib.suppress(NonFinitePredictionError):  # refused when the target takes it
                places[name] = targets[name].located(image, outcome.box), outcome.score
    return places


def _advanced(target: Target, image: Image, outcome: Answer | ServiceError, view: Image | None) -> Answer | ServiceError:
    """Have the target take its answer, or find out that it cannot."""
    if isinstance(outcome, ServiceError):
        return outcome
    try:
        target.advance(image, outcome.box, outcome.score, view)
    except NonFinitePredictionError as error:
        return NonFinitePrediction(str(error))
    return outcome


def _rejected(session: Session, frame: Frame, error: ServiceError) -> FrameResult:
    session.commit(without_removed(session.targets, frame.commands))
    return FrameResult(frame.number, Outcome.REJECTED, {}, error, Timing())


def _fault(session: Session, frame: Frame) -> ServiceError:
    """What the client is told of the exception that is being handled; the log has it whole."""
    _log.exception("session %s, frame %d", session.session_id, frame.number)
    return ServiceError("internal error, see the server's log")


def _timing(picture: Decoded, outcomes: Iterable[Answer | ServiceError], asked_at: float) -> Timing:
    answers = [each for each in outcomes if isinstance(each, Answer)]
    return Timing(
        decode=picture.seconds,
        queue=max((each.queue_seconds for each in answers), default=0.0),
        backbone=max((each.backbone_seconds for each in answers), default=0.0),
        batch_size=max((each.batch_size for each in answers), default=0),
        decode_at=picture.began_at,
        asked_at=asked_at,
    )
