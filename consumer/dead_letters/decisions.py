"""The commands that change letters: replay, discard and prune."""

import sys
from collections import Counter
from typing import Annotated

from cyclopts import Parameter

from consumer.dead_letters import letters, retention, shown
from consumer.dead_letters.options import ANYWHERE, Every, Ids, Json, Where
from consumer.dead_letters.replay import Outcome
from consumer.dead_letters.replayer import Replayer
from consumer.dead_letters.selection import Filters
from consumer.dead_letters.session import Session
from consumer.dialogue import LEFT, confirm, on_terminal, politely, say
from consumer.errors import WrongUse
from consumer.handlers import Handler, handler_for
from consumer.rollup.registry import REGISTRY
from consumer.settings import DatabaseSettings, Settings
from consumer.tables import print_json

LONGEST_RETENTION_DAYS = 36_500


def handlers(settings: Settings) -> dict[str, Handler]:
    """What the messages of each configured topic are."""
    return {t.topic: handler_for(t.handler, REGISTRY) for t in settings.kafka_topics}


def replay(
    *ids: Ids,
    where: Where = ANYWHERE,
    every: Every = False,
    dry_run: Annotated[
        bool, Parameter(help="Tell what would become of each letter, and write nothing.", negative=())
    ] = False,
    json: Json = False,
) -> int:
    """Send letters through the handler of their topic again, and count what is an event now, exactly once.

    Consumers go on meanwhile. KAFKA_TOPICS says what the messages of each topic are, as for the consumer. Letters that
    still cannot be events wait on, with their present reason.

    Exit codes: 0 all are dealt with, 1 some wait on or could not be looked at, 2 wrong use.
    """
    filters = where.to_change(ids, every=every)
    settings = Settings.load()
    outcomes: Counter[Outcome] = Counter()
    good = True
    with Session(settings) as session:
        replayer = Replayer(session, handlers(settings), REGISTRY, settings.open_days, dry_run=dry_run)
        try:
            for letter in replayer.run(filters):
                outcomes[letter.outcome] += 1
                good &= letter.done
                if json:
                    print_json(letter)
                elif dry_run or ids or not letter.done:
                    sys.stdout.write(f"{shown.replay_line(letter)}\n")
        except KeyboardInterrupt:
            good = False
            sys.stderr.write("stopped; run it again for the rest\n")
    if not json:
        sys.stdout.write(f"{shown.replay_summary(outcomes, dry_run=dry_run)}\n")
    return 0 if good else 1


def discard(
    *ids: Ids,
    reason: Annotated[str, Parameter(help="Why they shall never count; kept with them.")],
    where: Where = ANYWHERE,
    every: Every = False,
    yes: Annotated[bool, Parameter(help="Do not ask.", negative=())] = False,
    json: Json = False,
) -> int:
    """Mark letters that wait as never to be counted. Their rows stay until the retention takes them.

    Asks before, on a terminal; anywhere else --yes is needed.
    """
    if not reason.strip() or "\0" in reason:
        raise WrongUse("--reason says why these letters shall never count; it cannot be empty")
    filters = where.to_change(ids, every=every)
    if not yes and not on_terminal():
        raise WrongUse("without a terminal to ask on, discard needs --yes")
    with Session(DatabaseSettings.load()) as session:
        if not yes and (code := politely(lambda: _agree(session, filters))):
            return code
        done = _discard(session, filters, reason.strip())
        left = set(ids).difference(done)
        there = {each.id for page in session.pages(ANYWHERE.filters(tuple(left))) for each in page} if left else set()
    if json:
        for letter in done:
            print_json({"id": letter, "outcome": "discarded"})
    else:
        sys.stdout.write(f"{len(done)} letters discarded\n")
    for letter in sorted(left):
        why = "does not wait, or is in hand of a replay" if letter in there else "does not exist"
        sys.stderr.write(f"dead letter {letter} {why}\n")
    return 1 if left else 0


def prune(
    *,
    days: Annotated[
        int | None,
        Parameter(help="Keep letters for so many days after their end; DEAD_LETTER_RETENTION_DAYS without it."),
    ] = None,
) -> int:
    """Delete letters that were replayed or discarded long ago. Letters that wait stay, however old they are."""
    settings = DatabaseSettings.load()
    if days is not None and not 1 <= days <= LONGEST_RETENTION_DAYS:
        raise WrongUse(f"--days takes a number from 1 to {LONGEST_RETENTION_DAYS}")
    kept = settings.dead_letter_retention_days if days is None else days
    with Session(settings) as session:
        deleted = session.attempt(lambda conn: retention.prune_dead_letters(conn, kept))
    sys.stdout.write(f"{deleted} letters deleted\n" if kept else "nothing deleted: DEAD_LETTER_RETENTION_DAYS is 0\n")
    return 0


def _agree(session: Session, filters: Filters) -> int:
    """0 if a person at the terminal agrees to discard these."""
    causes = session.attempt(lambda conn: letters.by_cause(conn, filters))
    every = sum(cause.letters for cause in causes)
    if not every:
        return 0
    words = ", ".join(f"{cause.letters} {cause.cause}" for cause in causes)
    if confirm(f"Discard {every} dead letters ({words})?", default=False):
        return 0
    say("Left; nothing was changed.")
    return LEFT


def _discard(session: Session, filters: Filters, reason: str) -> list[int]:
    done: list[int] = []
    for picked in session.pages(filters):
        done += _discard_page(session, [letter.id for letter in picked], reason)
    return done


def _discard_page(session: Session, ids: list[int], reason: str) -> list[int]:
    return session.attempt(lambda conn: retention.discard(conn, ids, reason))
