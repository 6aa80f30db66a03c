"""What a frame's commands make of a session's targets. Nothing is changed in place: a frame that is refused leaves no trace."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from model.config import ModelConfig, UpdateRule
from model.crop import Image
from model.target import Target
from service.errors import BadBox, InvalidRequest, TargetNotFound, TooManyTargets
from service.front.frames import Action, Command

Targets = Mapping[str, Target]

MAX_ID_CHARACTERS = 128
MAX_COMMANDS = 256


@dataclass(frozen=True)
class Commanded:
    """The targets after a frame's commands. `started` are those that begin on this very frame, with the box they were given."""

    targets: dict[str, Target]
    started: frozenset[str]


@dataclass(frozen=True)
class Kit:
    """What a target of a session is made with."""

    config: ModelConfig
    rule: UpdateRule
    max_targets: int


def may_start(targets: Targets, commands: Sequence[Command]) -> bool:
    """Whether `command` may cut templates, which takes 0.1 to over 10 ms each."""
    return not all(
        each.action is Action.RELOCATE or (each.action is Action.ENSURE and _named(targets, each.target_id) in targets)
        for each in commands
    )


def command(targets: Targets, commands: Sequence[Command], image: Image, kit: Kit) -> Commanded:
    """Carry out `commands`, in their order, on the frame they came with (uint8 RGB [H, W, 3]).

    Raises InvalidRequest, BadBox, TargetNotFound or TooManyTargets at the first one that cannot be.
    """
    if len(commands) > MAX_COMMANDS:
        raise InvalidRequest(f"more than {MAX_COMMANDS} commands on one frame")
    after = dict(targets)
    started: set[str] = set()
    starts = 0
    for each in commands:
        target_id = _resolve(after, each)
        match each.action:
            case Action.REMOVE:
                del after[target_id]
                started.discard(target_id)
            case Action.RELOCATE:
                after[target_id] = _relocated(after[target_id], each, image, kit)
            case Action.INITIALIZE | Action.ENSURE:
                if each.action is Action.INITIALIZE or target_id not in after:
                    starts += 1
                    if starts > kit.max_targets:  # before it costs a template: one frame may start and remove many
                        raise TooManyTargets(f"{starts} starts on one frame are over max_targets_per_session {kit.max_targets}")
                    after[target_id] = _started(target_id, each, image, kit)
                    started.add(target_id)
    if len(after) > kit.max_targets:
        raise TooManyTargets(f"{len(after)} targets are over max_targets_per_session {kit.max_targets}")
    return Commanded(after, frozenset(started))


def without_removed(targets: Targets, commands: Sequence[Command]) -> dict[str, Target]:
    """The targets after the `remove` commands alone: a frame that is refused still ends what its client is done with."""
    after = dict(targets)
    named = set(targets)  # with those that the frame was to start: an empty id is not the only target beside them
    for each in commands:
        target_id = _named(named, each.target_id)
        if each.action is Action.REMOVE:
            named.discard(target_id)
            after.pop(target_id, None)
        elif each.action in (Action.INITIALIZE, Action.ENSURE):
            named.add(target_id)
    return after


def rebuilt(targets: Targets, kit: Kit) -> dict[str, Target]:
    """The same targets under other options."""
    return {target_id: Target(kit.config, kit.rule, target.state) for target_id, target in targets.items()}


def _named(targets: Collection[str], target_id: str) -> str:
    """The target that an id means: an empty one means the only target, whatever its id."""
    return next(iter(targets)) if not target_id and len(targets) == 1 else target_id


def _resolve(targets: Targets, wanted: Command) -> str:
    if len(wanted.target_id) > MAX_ID_CHARACTERS:
        raise InvalidRequest(f"target_id of {len(wanted.target_id)} characters is over {MAX_ID_CHARACTERS}")
    target_id = _named(targets, wanted.target_id)
    if wanted.action is Action.NONE:
        raise InvalidRequest(f"command for target {target_id!r} says neither initialize, ensure, relocate nor remove")
    if target_id in targets:
        return target_id
    if not target_id and targets:
        raise InvalidRequest(f"an empty target_id means the only target, and there are {len(targets)}")
    if wanted.action in (Action.RELOCATE, Action.REMOVE):
        raise TargetNotFound(f"no target {target_id!r} to {wanted.action.name.lower()}")
    return target_id


def _started(target_id: str, wanted: Command, image: Image, kit: Kit) -> Target:
    assert wanted.box is not None
    try:
        return Target.start(kit.config, kit.rule, image, wanted.box)
    except ValueError as error:
        raise BadBox(f"target {target_id!r}: {error}") from error


def _relocated(target: Target, wanted: Command, image: Image, kit: Kit) -> Target:
    assert wanted.box is not None
    moved = Target(kit.config, kit.rule, replace(target.state))
    try:
        moved.relocate(wanted.box, image.shape[1], image.shape[0])
    except ValueError as error:
        raise BadBox(f"target {wanted.target_id!r}: {error}") from error
    return moved
