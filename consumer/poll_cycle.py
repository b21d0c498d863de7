"""When a batch is due: pure, time passed in.

What is read at once is decoded at once into a small batch. Small batches gather while the writer is busy, and leave
together as one transaction: they grow under lag, where rows per event is what counts, and stay small when caught up.
"""

from dataclasses import dataclass, field

from consumer.rollup.batch import Batch, merge


@dataclass(frozen=True, slots=True)
class Policy:
    """When waiting batches leave.

    Attributes:
        most_events: no more in one transaction.
        lag_wait: seconds that batches may gather while the topic has more at hand than we read at once; larger
            transactions touch fewer rows an event.
    """

    most_events: int
    lag_wait: float = 1.0


@dataclass
class Gathering:
    """Batches that wait for the writer. Not thread-safe; the writer holds its lock around every call."""

    policy: Policy
    waiting: list[Batch] = field(default_factory=list)
    events: int = 0
    since: float = 0.0
    lagging: bool = False
    limit: int = field(init=False)
    """Messages of one transaction at present; fewer than the policy's while larger ones take too long."""

    def __post_init__(self) -> None:
        self.limit = self.policy.most_events

    def shrink(self, messages: int) -> None:
        """A transaction of so many messages took too long: half as many from now on."""
        self.limit = max(1, messages // 2)

    def grow(self) -> None:
        """One did not: an eighth more, until it is the policy's number again. Where the database stays slow, every
        attempt at too many costs minutes, so they are to be rare."""
        self.limit = min(self.policy.most_events, self.limit + max(1, self.limit // 8))

    def add(self, batch: Batch, *, lagging: bool, now: float) -> None:
        """Put a batch behind the others. `lagging`: the topic had more at hand than was read. `now`: monotonic."""
        if not self.waiting:
            self.since = now
        self.waiting.append(batch)
        self.events += batch.weight
        self.lagging = lagging

    @property
    def full(self) -> bool:
        """Whether reading should stop until the writer has taken something."""
        return self.events >= self.policy.most_events

    def due_in(self, now: float) -> float | None:
        """Seconds until what waits should leave; None if nothing waits."""
        if not self.waiting:
            return None
        if self.full or not self.lagging:
            return 0.0
        return max(0.0, self.since + self.policy.lag_wait - now)

    def take(self, now: float) -> Batch:
        """All that waits up to the limit, oldest first, as one batch. At least one batch must wait."""
        taken: list[Batch] = []
        events = 0
        while self.waiting and (not taken or events + self.waiting[0].weight <= self.limit):
            taken.append(self.waiting.pop(0))
            events += taken[-1].weight
        self.events -= events
        self.since = now
        return merge(taken)

    def clear(self) -> None:
        """Forget everything that waits."""
        self.waiting.clear()
        self.events = 0
