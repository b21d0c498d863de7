"""Options that the commands share."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from consumer.dead_letters.selection import Filters, State, select, select_to_change

Ids = Annotated[int, Parameter(help="Ids, as `list` shows them.")]
Json = Annotated[bool, Parameter(help="One JSON object a line on standard output.", negative=())]
Every = Annotated[bool, Parameter(name="--all", help="All that wait.", negative=())]
WhichState = Annotated[State, Parameter(help="What became of them.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Where:
    """Filters; letters must fit all that are given."""

    cause: Annotated[
        tuple[str, ...], Parameter(help="Error class, as syntax or timestamp; repeatable.", negative=())
    ] = ()
    topic: Annotated[tuple[str, ...], Parameter(help="Topic; repeatable.", negative=())] = ()
    partition: Annotated[tuple[int, ...], Parameter(help="Partition; repeatable.", negative=())] = ()
    group: Annotated[
        tuple[str, ...], Parameter(help="Consumer group that set them aside; repeatable.", negative=())
    ] = ()
    since: Annotated[
        str | None,
        Parameter(help="Set aside at or after: 2026-02-11, 2026-02-11T09:30:00Z, or 2h for two hours ago."),
    ] = None
    until: Annotated[str | None, Parameter(help="Set aside before; as --since.")] = None

    def filters(self, ids: tuple[int, ...] = (), state: State = State.ALL) -> Filters:
        """What was asked for; letters named by id are of any state. Raises WrongUse."""
        return select(
            ids,
            cause=self.cause,
            topic=self.topic,
            partition=self.partition,
            group=self.group,
            since=self.since,
            until=self.until,
            state=State.ALL if ids else state,
            now=datetime.now(UTC),
        )

    def to_change(self, ids: tuple[int, ...], *, every: bool) -> Filters:
        """The same for commands that change letters, which must be named; others than by id must wait."""
        return select_to_change(ids, self.filters(ids, State.WAITING), every=every)


ANYWHERE = Where()
"""No filters."""
