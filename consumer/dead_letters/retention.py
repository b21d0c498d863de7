"""Decisions about letters: discarding them, and forgetting those that were dealt with long ago."""

from collections.abc import Sequence

import psycopg

from consumer.dead_letters.statements import STATEMENTS

PORTION = 1_000
"""Letters deleted in one transaction."""


def discard(conn: psycopg.Connection, ids: Sequence[int], reason: str) -> list[int]:
    """Mark letters as never to be counted; their rows stay.

    Returns:
        Those that waited, and that no replay has in hand.
    """
    rows = conn.execute(STATEMENTS["discard"], {"ids": list(ids), "reason": reason})
    return sorted(number for (number,) in rows)


def prune_dead_letters(conn: psycopg.Connection, days: int) -> int:
    """Delete letters that were replayed or discarded more than so many days ago. Those that wait stay, however old.

    Args:
        conn: an autocommit connection; each portion is a transaction of its own. Waits for nobody.
        days: 0 deletes nothing.

    Returns:
        How many were deleted.
    """
    deleted = 0
    while days:
        (portion,) = conn.execute(STATEMENTS["prune"], {"days": days, "most": PORTION}).fetchone() or (0,)
        deleted += portion
        if portion < PORTION:
            break
    return deleted
