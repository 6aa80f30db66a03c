"""What all calls of a front work with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from model.config import VARIANTS, ModelConfig, UpdateRule
from service.config import ServeSettings
from service.front.access.caller import Callers
from service.front.resume.backing import Backing, backing_of, keys_of
from service.front.resume.finder import Finder
from service.front.resume.resume_tokens import ResumeTokens
from service.front.resume.snapshot import Snapshots
from service.front.telemetry.metrics import Metrics
from service.front.tracking.options import SessionOptions
from service.front.tracking.session import Clock
from service.front.tracking.sessions import SessionTable, unkept
from service.front.tracking.step import FrameTracker
from service.messages import Hello


@dataclass(frozen=True)
class Front:
    """The parts of a running front. `hello` is what its worker said it runs."""

    settings: ServeSettings
    version: str
    hello: Hello
    table: SessionTable
    tracker: FrameTracker
    resume_tokens: ResumeTokens
    finder: Finder
    backing: Backing | None
    metrics: Metrics
    clock: Clock
    callers: Callers

    @property
    def default_options(self) -> SessionOptions:
        """The options of a session whose client asks for none."""
        return SessionOptions(update_rule(self.hello), self.hello.search_factor, self.settings.idle_timeout_seconds)


def assemble(
    settings: ServeSettings,
    version: str,
    hello: Hello,
    tracker: FrameTracker,
    release: Callable[[bytes], None],
    metrics: Metrics,
    clock: Clock,
    callers: Callers,
) -> Front:
    """A front for a worker that said `hello`; `release` is told every memory key that is done with. Raises SettingsError."""
    limits = settings.limits
    snapshots = Snapshots(model_config(hello), limits.max_targets_per_session)
    keys, interval = keys_of(settings), settings.token_interval_seconds
    tokens = ResumeTokens(keys, snapshots, limits.max_resume_token_bytes, interval, metrics.kept, clock)
    backing = backing_of(settings, snapshots, metrics.kept)
    table = SessionTable(limits, release, clock, backing.journal.note if backing else unkept)
    finder = Finder(table, tracker, tokens, backing, settings.max_idle_timeout_seconds, metrics.kept)
    return Front(settings, version, hello, table, tracker, tokens, finder, backing, metrics, clock, callers)


def model_config(hello: Hello) -> ModelConfig:
    """The worker's network. Raises ValueError for a variant that this front does not know."""
    if hello.variant not in VARIANTS:
        raise ValueError(f"variant {hello.variant!r} is none of {', '.join(VARIANTS)}")
    return replace(
        VARIANTS[hello.variant],
        template_size=hello.template_size,
        search_size=hello.search_size,
        template_factor=hello.template_factor,
        search_factor=hello.search_factor,
        has_score_head=hello.has_score_head,
    )


def room(settings: ServeSettings, hello: Hello) -> int:
    """Targets that may be on their way through the devices before new ones are refused: this front's share of one pass of every
    worker, unless the settings say otherwise.
    """
    return settings.max_under_way or math.ceil(hello.max_batch * len(settings.worker_devices) / settings.fronts)


def update_rule(hello: Hello) -> UpdateRule:
    """The update rule that came with the worker's weights."""
    return msgspec.convert(hello.update_rule, UpdateRule)
