"""A front without a worker: every target stays in the middle of its search crop, and time stands still until told."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from pictures import encoded, scene

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.config import VARIANTS, UpdateRule
from model.geometry import Box, CropBox
from service.config import Limits, ServeSettings
from service.errors import ServiceError
from service.front.access.caller import Callers
from service.front.access.tokens import Tokens
from service.front.calls.convert import result_message
from service.front.calls.options import granted_options
from service.front.frames import Action, Command, Frame
from service.front.front import Front, assemble, model_config
from service.front.telemetry.metrics import Metrics
from service.front.tracking.admission import Admission
from service.front.tracking.budget import DecodePool
from service.front.tracking.session import Clock, Session
from service.front.tracking.step import FrameTracker
from service.front.workers.fleet import Owner
from service.front.workers.items import Answer
from service.front.workers.memories import MemorySource
from service.messages import PROTOCOL_VERSION, Hello

PROCESSED, DROPPED, REJECTED = pb.FRAME_OUTCOME_PROCESSED, pb.FRAME_OUTCOME_DROPPED, pb.FRAME_OUTCOME_REJECTED
CONFIG = VARIANTS["mixvit_tiny"]
BOX = Box(100.0, 80.0, 40.0, 40.0)
ELSEWHERE = Box(200.0, 120.0, 40.0, 40.0)
STILL = CropBox(0.5, 0.5, 1 / CONFIG.search_factor, 1 / CONFIG.search_factor)

HELLO = Hello(
    protocol_version=PROTOCOL_VERSION, pid=1, variant=CONFIG.name, weights_sha256="0" * 64, device="cpu", precision="float32",
    slots=8, max_batch=8, template_size=CONFIG.template_size, search_size=CONFIG.search_size, template_factor=2.0,
    search_factor=CONFIG.search_factor, has_score_head=True, update_rule=asdict(UpdateRule()),
)  # fmt: skip


@dataclass
class FakeTime:
    """Monotonic and wall time in one."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=self, wall=self)


@dataclass
class FakeEngine:
    """Answers at once, or when its gate opens. `failures` and `answers` say by call number what is different."""

    answers: dict[int, Answer | ServiceError] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    waiting: int = 0
    cancelled: int = 0
    expiries: list[float | None] = field(default_factory=list)
    used: list[bytes] = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    async def submit(self, owner: Owner, target: MemorySource, search: bytes, expires_at: float | None) -> Answer:
        call, self.calls = self.calls, self.calls + 1
        self.used.append(target.memory_key)
        self.expiries.append(expires_at)
        self.waiting += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        answer = self.answers.get(call, answer_of())
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    def release(self, memory_key: bytes) -> None:
        self.released.append(memory_key)


def answer_of(box: CropBox = STILL, score: float | None = 0.9) -> Answer:
    """A prediction as the engine gives it."""
    return Answer(box, score, 0.001, 0.01, 1)


@dataclass
class Bench:
    """A front with everything that a test looks at or turns."""

    front: Front
    engine: FakeEngine
    time: FakeTime
    metrics: Metrics
    pool: DecodePool

    def session(self, session_id: str = "s", options: pb.SessionOptions | None = None, client: str = "me") -> Session:
        """A new session."""
        return self.front.table.create(client, session_id, granted_options(options or pb.SessionOptions(), self.front))

    def found(self, session_id: str, client: str = "address:local") -> Session:
        """A session that is there; `client` is by default whoever calls from this machine."""
        session = self.front.table.get(client, session_id)
        assert session is not None
        return session

    async def track(self, session: Session, number: int, *commands: Command, **others: object) -> pb.FrameResult:
        """One frame through its session; the result as the client gets it."""
        frame = self.frame(number, *commands, **others)
        tracker = self.front.tracker
        async with session.turn():
            return result_message(await tracker.track(session, frame, await tracker.prepare(session, frame)))

    def frame(self, number: int, *commands: Command, **others: object) -> Frame:
        """A good frame that has just come; `others` are fields that differ."""
        frame = Frame(number, GOOD, commands, None, self.time())
        return replace(frame, **others)  # type: ignore[arg-type]


GOOD = encoded(scene())


def bench(limits: Limits = Limits(), room: int = 1000, **settings: object) -> Bench:  # noqa: B008
    """A front over a fake engine, with room for so many targets on its device, and a fake clock."""
    engine, time, metrics = FakeEngine(), FakeTime(), Metrics()
    given = ServeSettings(limits=limits, **settings)  # type: ignore[arg-type]
    pool = DecodePool(limits, 2, 5.0)
    tracker = FrameTracker(engine, Admission(room, time), pool, model_config(HELLO), limits, metrics, time.clock)
    front = assemble(given, "1.2.3", HELLO, tracker, engine.release, metrics, time.clock, Callers(Tokens(given)))
    return Bench(front, engine, time, metrics, pool)


def start(target_id: str = "", box: Box = BOX) -> Command:
    """The command that starts a target."""
    return Command(target_id, Action.INITIALIZE, box)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds; they have five seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def boxes(result: pb.FrameResult) -> dict[str, Box]:
    """The boxes of a result, by target."""
    return {each.target_id: Box(each.box.x, each.box.y, each.box.width, each.box.height) for each in result.targets}
