"""The order of a run: which peer is measured when.

In a round every peer is started afresh, then each measure visits all peers before the next measure begins: what
is compared lies seconds apart. Odd rounds go backwards, so that nobody always comes after the same neighbour.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import startup
from bench.load import LoadError
from bench.measures import Measure
from bench.peers import Peer
from bench.target import Placement, Target, TargetError, started

IDLE_ROUNDS = 2  # memory and descriptors hardly vary, and 10,000 connections take their time
STARTUP_TURNS = 2  # a round: start-up is short and noisy

Say = Callable[[str], None]


@dataclass
class Samples:
    """Figures by column and subject, one a round; and why some are missing, by subject and what it was to do."""

    columns: dict[str, dict[str, list[float | None]]] = field(default_factory=lambda: defaultdict(dict))
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, column: str, subject: str, turn: int, value: float | None) -> None:
        series = self.columns[column].setdefault(subject, [])
        series.extend([None] * (turn - len(series)))  # rounds in which it could not be measured
        series.append(value)


def in_turn(things: Sequence[Peer], turn: int) -> Sequence[Peer]:
    """ABCD in even rounds, DCBA in odd ones."""
    return things if turn % 2 == 0 else things[::-1]


@dataclass
class Run:
    """One lane's run. `kind` is the upstream's: tcp, unix or vsock; `seconds` the length of a load measure."""

    kind: str
    peers: Sequence[Peer]
    measures: Sequence[Measure]
    rounds: int
    seconds: float
    binary: Path
    placement: Placement
    with_startup: bool
    say: Say
    samples: Samples = field(default_factory=Samples)

    def __call__(self) -> Samples:
        for turn in range(self.rounds):
            self._load_round(turn)
            self._idle_round(turn)
            self._startup_round(turn)
        return self.samples

    def _load_round(self, turn: int) -> None:
        measures = [m for m in self.measures if not m.idle]
        if not measures:
            return
        with contextlib.ExitStack() as stack:
            targets: dict[Peer, Target] = {}
            for peer in in_turn(self.peers, turn):
                with self._excusing(peer.name):
                    targets[peer] = stack.enter_context(started(peer, self.kind, self.binary, self.placement))
            for measure in measures:
                for peer in in_turn(self.peers, turn):
                    if peer in targets:
                        self._measure(measure, peer, targets[peer], turn)

    def _idle_round(self, turn: int) -> None:
        if turn >= IDLE_ROUNDS:
            return
        for measure in self.measures:
            for peer in in_turn(self.peers, turn):
                if peer.command and measure.idle:
                    with (
                        self._excusing(peer.name),
                        started(peer, self.kind, self.binary, self.placement) as target,
                    ):
                        self._measure(measure, peer, target, turn)

    def _measure(self, measure: Measure, peer: Peer, target: Target, turn: int) -> None:
        self.say(f"round {turn + 1} of {self.rounds}: {measure.columns[0].title}, {peer.name}")
        with self._excusing(f"{peer.name}, {measure.columns[0].title}"):
            for column, value in measure.run(target, self.seconds).items():
                self.samples.add(column, peer.name, turn, value)

    def _startup_round(self, turn: int) -> None:
        if not self.with_startup:
            return
        subjects = startup.subjects(self.binary, self.kind)
        for repeat in range(STARTUP_TURNS):
            self.say(f"round {turn + 1} of {self.rounds}: start-up")
            for name in list(subjects)[:: 1 if repeat % 2 == 0 else -1]:
                with self._excusing(f"{name}, start-up"):
                    self.samples.add(
                        startup.COLUMN.key, name, STARTUP_TURNS * turn + repeat, 1e3 * subjects[name]()
                    )

    @contextlib.contextmanager
    def _excusing(self, subject: str) -> Iterator[None]:
        """One that fails is left out of what failed, and said; the rest of the run goes on."""
        try:
            yield
        except (LoadError, TargetError) as error:
            self.samples.missing.setdefault(subject, str(error))
