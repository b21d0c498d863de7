"""A replay whose connection breaks, between any two statements and at COMMIT's answer: the letters count once, and the
command says what became of them."""

import pytest

from consumer.dead_letters.letters import newest_id
from consumer.dead_letters.replay import Replayed
from consumer.dead_letters.replayer import Replayer
from consumer.dead_letters.selection import Filters
from consumer.dead_letters.session import Session
from consumer.rollup.registry import REGISTRY
from consumer.settings import DatabaseSettings
from tests.chaos.postgres_wire import COMMIT, PostgresWire, through
from tests.chaos.proxy import Cut, Deed, Piece, Proxy
from tests.fixtures.letters import WiderRule, outcomes, wrapped
from tests.fixtures.rollup import TOPIC, Outcomes, Rollup, make_event

STEPS = 16
"""At least as many statements as a replay's transaction has."""


class CutOnce:
    """Cuts the connection at one place, the first time it comes by."""

    def __init__(self, *, step: int | None = None, answer: bool = False) -> None:
        self._step = step
        self._answer = answer
        self.done = False

    def __call__(self, piece: Piece) -> Deed:
        at_answer = piece.label == COMMIT and not piece.to_server
        at_step = piece.to_server and piece.step == self._step
        if self.done or not (at_answer if self._answer else at_step):
            return None
        self.done = True
        return Cut()


def replay_through(proxy: Proxy, rollup: Rollup, deed: CutOnce) -> list[Replayed]:
    proxy.interfere = deed
    settings = DatabaseSettings(database_url=through(proxy, rollup.url))
    with Session(settings) as session:
        session.attempt(newest_id)
        replayer = Replayer(session, {TOPIC: WiderRule()}, REGISTRY, rollup.open_days, now_us=lambda: rollup.now_us)
        return list(replayer.run(Filters()))


@pytest.mark.parametrize("where", [*range(1, STEPS), "answer"])
def test_a_connection_that_breaks_changes_nothing(rollup: Rollup, where: int | str) -> None:
    rollup.always_had({42: "Europe/Paris"})
    rollup.count(make_event(1), wrapped(make_event(1)), wrapped(make_event(2)), wrapped(make_event(3)))
    deed = CutOnce(answer=True) if where == "answer" else CutOnce(step=int(where))
    with Proxy(wire=PostgresWire) as proxy:
        results = replay_through(proxy, rollup, deed)
    assert outcomes(results) == ["duplicate", "counted", "counted"]
    assert deed.done or where in range(12, STEPS)
    assert rollup.table() == rollup.model(*map(make_event, (1, 2, 3)))
    assert rollup.outcomes() == Outcomes(messages=4, counted=3, duplicates=1, late=0, skipped=0, dead=0)
