"""A run of N learners and M engines, event after event, as fettle's loop has them wait for each other.

What it knows of the loop (rl/loop.py, rl/collect.py, rl/rollouts.py): an iteration's policy is published, then the
rollouts of up to `staleness` further ones are asked for; one thread has the engines take the policy, hands them
batches, two an engine where there are several, and has the answers scored; the learners wait for their iteration's. A
learner's death begins the group again at the last checkpoint, where rollouts that were written stay; an engine's has
its batch asked of another, while whoever hands out batches waits for its successor.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

_NEVER = math.inf
Process = Generator["float | Event", None, None]


class Event:
    """Something that processes wait for."""

    def __init__(self) -> None:
        self.is_set, self.waiting = False, list[Task]()


class Task:
    """A process under way; what is scheduled of one that was ended does not happen."""

    def __init__(self, process: Process) -> None:
        self.process, self.is_alive = process, True


class Clock:
    """Runs processes, which yield the seconds that something takes, or an Event to wait for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Task]] = []
        self._order = 0

    def start(self, process: Process) -> Task:
        """Begins with it now."""
        task = Task(process)
        self._later(0.0, task)
        return task

    def end(self, task: Task) -> None:
        """It does nothing more."""
        task.is_alive = False

    def set(self, event: Event) -> None:
        """Those that wait for it go on."""
        event.is_set = True
        for task in event.waiting:
            self._later(0.0, task)
        event.waiting.clear()

    def run(self, until: Callable[[], bool]) -> None:
        """Until `until()`, or until nothing is left to happen."""
        while self._queue and not until():
            self.now, _, task = heapq.heappop(self._queue)
            if not task.is_alive:
                continue
            try:
                wanted = next(task.process)
            except StopIteration:
                continue
            if isinstance(wanted, Event):
                if wanted.is_set:
                    self._later(0.0, task)
                else:
                    wanted.waiting.append(task)
            else:
                self._later(wanted, task)

    def _later(self, seconds: float, task: Task) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + seconds, self._order, task))


@dataclass(frozen=True)
class Iteration:
    """Seconds of what is done once, and the tokens of each answer, by prompt; none where nothing is generated."""

    learn: float
    publish: float = 0.0
    sync: float = 0.0
    score: float = 0.0
    reference: float = 0.0
    other: float = 0.0
    lengths: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class Setting:
    """What runs, and what goes wrong. decode: seconds of an engine for answers that begin together. jitter: σ of the
    logarithm of each learner's step and each batch over their usual time. mean seconds between failures of the
    group and of an engine; none at infinity. checkpoint_every: iterations, for each of which training waits
    `checkpoint_s`, and for the one before to be there, which takes `writing_s`."""

    engines: int = 0
    staleness: int = 0
    decode: Callable[[Sequence[int]], float] = lambda lengths: 0.0
    learners: int = 1
    jitter: float = 0.0
    checkpoint_every: int = 0
    checkpoint_s: float = 0.0
    writing_s: float = 0.0
    group_fails_s: float = _NEVER
    restart_s: float = 0.0
    engine_fails_s: float = _NEVER
    engine_start_s: float = 0.0
    seed: int = 0


@dataclass
class Told:
    """seconds: of all of it. ends: when each iteration was last done. Busy seconds; failures; iterations done again."""

    seconds: float = 0.0
    ends: list[float] = field(default_factory=list)
    oldest: int = 0
    learner_busy: float = 0.0
    engine_busy: float = 0.0
    failures: int = 0
    engine_failures: int = 0
    repeated: int = 0

    @property
    def periods(self) -> list[float]:
        """Seconds from one iteration's end to the next."""
        return [after - before for before, after in zip([0.0, *self.ends], self.ends, strict=False)]


def simulate(run: Sequence[Iteration], setting: Setting) -> Told:
    """What becomes of a run."""
    simulation = _Simulation(run, setting)
    simulation.begin()
    simulation.clock.run(lambda: simulation.is_done)
    return simulation.told


class _Simulation:
    def __init__(self, run: Sequence[Iteration], setting: Setting) -> None:
        self.work, self.setting, self.clock, self.told = run, setting, Clock(), Told()
        self.draw = random.Random(setting.seed)
        self.written: dict[int, int] = {}  # rollouts that are there, and the version that made them
        self.saved, self.reached, self.is_done = 0, 0, False
        self.told.ends = [0.0] * len(run)

    def begin(self) -> None:
        self._start_group()
        if self.setting.group_fails_s < _NEVER:
            self.clock.start(self._failures())

    def _start_group(self) -> None:
        self.asked: deque[tuple[int, int]] = deque()
        self.known: set[int] = set()
        self.has_asked = Event()
        self.ready = [Event() for _ in self.work]
        self.free_at, self.is_written = 0.0, Event()
        self.is_written.is_set = True
        self.tasks = [self.clock.start(self._learner(self.saved)), self.clock.start(self._collector())]

    def _failures(self) -> Process:
        while True:
            yield self.draw.expovariate(1 / self.setting.group_fails_s)
            self.told.failures += 1
            for task in self.tasks:
                self.clock.end(task)
            self.told.repeated += max(0, self.reached - self.saved)
            yield self.setting.restart_s
            self._start_group()

    def _learner(self, first: int) -> Process:
        told, setting = self.told, self.setting
        for number in range(first, len(self.work)):
            self.reached = number
            one = self.work[number]
            yield one.publish
            for wanted in range(number, min(number + setting.staleness + 1, len(self.work))):
                self._ask(wanted, number)
            yield self.ready[number]
            told.oldest = max(told.oldest, number - self.written[number])
            took = (one.reference + one.learn) * self._slowest(setting.learners) + one.other
            yield took
            told.learner_busy += took
            if setting.checkpoint_every and (number + 1) % setting.checkpoint_every == 0:
                yield self.is_written  # one at a time: the next waits (train/writer.py)
                yield setting.checkpoint_s
                self.is_written = Event()
                self.tasks.append(self.clock.start(self._written(number + 1, self.is_written)))
            told.ends[number] = self.clock.now
        told.seconds, self.is_done = self.clock.now, True

    def _written(self, number: int, is_written: Event) -> Process:
        yield self.setting.writing_s
        self.saved = number
        self.clock.set(is_written)

    def _ask(self, number: int, version: int) -> None:
        if number in self.known:
            return
        self.known.add(number)
        if number in self.written:
            self.clock.set(self.ready[number])
            return
        self.asked.append((number, version))
        self.clock.set(self.has_asked)

    def _collector(self) -> Process:
        while True:
            while not self.asked:
                self.has_asked = Event()
                yield self.has_asked
            number, version = self.asked.popleft()
            one = self.work[number]
            if one.lengths:
                yield one.sync
                yield self._generated(one.lengths)
            yield one.score
            self.written[number] = version
            self.clock.set(self.ready[number])

    def _generated(self, lengths: Sequence[Sequence[int]]) -> Event:
        """When all batches are answered, which engines take as they come free (`RolloutPool.answers`)."""
        count = self.setting.engines
        size = max(1, -(-len(lengths) // (2 * count if count > 1 else 1)))
        self.left = deque([n for of in lengths[at : at + size] for n in of] for at in range(0, len(lengths), size))
        self.under_way, self.all_answered = 0, Event()
        self.tasks += [self.clock.start(self._engine()) for _ in range(count)]
        return self.all_answered

    def _engine(self) -> Process:
        setting, told = self.setting, self.told
        while self.left:
            while self.free_at > self.clock.now:  # whoever hands out batches waits for an engine to start
                yield self.free_at - self.clock.now
                if not self.left:
                    return
            batch = self.left.popleft()
            self.under_way += 1
            took = setting.decode(batch) * self._slowest(1)
            lives = setting.engine_fails_s
            until_death = self.draw.expovariate(1 / lives) if lives < _NEVER else _NEVER
            yield min(took, until_death)
            told.engine_busy += min(took, until_death)
            self.under_way -= 1
            if until_death < took:
                told.engine_failures += 1
                self.left.appendleft(batch)
                self.free_at = max(self.free_at, self.clock.now) + setting.engine_start_s
        if not self.under_way and not self.all_answered.is_set:
            self.clock.set(self.all_answered)

    def _slowest(self, number: int) -> float:
        """Of so many: the largest of independent draws has the distribution's power of their number."""
        if not self.setting.jitter:
            return 1.0
        share = max(self.draw.random(), 1e-12) ** (1 / number)
        return math.exp(self.setting.jitter * NormalDist().inv_cdf(min(share, 1 - 1e-12)))
