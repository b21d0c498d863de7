"""`python -m consumer dead-letters`: its app, and the commands that only read. Words and exit codes, nothing else."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, BinaryIO

from cyclopts import App, Parameter

from consumer.dead_letters import decisions, exporting, letters, shown
from consumer.dead_letters.options import ANYWHERE, Ids, Json, Where, WhichState
from consumer.dead_letters.output import open_output
from consumer.dead_letters.selection import State
from consumer.dead_letters.session import Session
from consumer.errors import WrongUse
from consumer.settings import DatabaseSettings, Settings
from consumer.tables import print_json

app = App(
    name="dead-letters",
    help_format="plaintext",
    help="Messages that cannot be events: find, read, replay, export and discard them (docs/dead-letters.md).\n\n"
    "Exit codes: 0 done, 1 some could not be done, 2 wrong use, 3 the schema does not fit, 8 PostgreSQL refuses us.",
)
MOST_LISTED = 1_000_000


@app.command(name="list")
def list_command(
    *,
    where: Where = ANYWHERE,
    state: WhichState = State.WAITING,
    limit: Annotated[int, Parameter(help="Letters listed, the newest first.")] = 20,
    json: Json = False,
) -> int:
    """List letters, newest first, and how many there are of each cause."""
    if not 1 <= limit <= MOST_LISTED:
        raise WrongUse(f"--limit takes a number from 1 to {MOST_LISTED}")
    filters = where.filters(state=state)
    with Session(DatabaseSettings.load()) as session:
        found = session.attempt(lambda conn: letters.newest(conn, filters, limit))
        if json:
            for letter in found:
                print_json(exporting.known(letter))
        else:
            shown.print_letters(found, session.attempt(lambda conn: letters.by_cause(conn, filters)), state)
    return 0


@app.command
def show(
    *ids: Ids,
    full: Annotated[bool, Parameter(help="Contents of any length.", negative=())] = False,
    json: Json = False,
) -> int:
    """Show letters with their contents, and what the present program would make of each.

    With --json they are as in `export`.
    """
    if not ids:
        raise WrongUse("name the letters to show by their ids: `dead-letters list` shows them")
    filters = ANYWHERE.filters(ids)
    settings = Settings.load()
    handlers = decisions.handlers(settings)
    missing = set(ids)
    with Session(settings) as session:
        for number, found in enumerate(session.contents(filters)):
            missing.discard(found.letter.id)
            if json:
                print_json(exporting.record(found))
                continue
            sys.stdout.write("\n" if number else "")
            shown.print_letter(found, shown.today(found, handlers.get(found.letter.topic)), full=full)
    for letter in sorted(missing):
        sys.stderr.write(f"there is no dead letter {letter}\n")
    return 1 if missing else 0


@app.command
def export(
    *ids: Ids,
    where: Where = ANYWHERE,
    state: WhichState = State.WAITING,
    output: Annotated[
        str | None, Parameter(help="A file, replaced when all is written; standard output without it.")
    ] = None,
) -> int:
    """Write letters with their contents, one JSON object a line, the oldest first; bytes that are no text in base64."""
    filters = where.filters(ids, state)
    target: AbstractContextManager[BinaryIO] = nullcontext(sys.stdout.buffer) if output is None else open_output(output)
    with Session(DatabaseSettings.load()) as session, target as out:
        written = exporting.export(session, filters, out)
    sys.stderr.write(f"{written} letters exported{'' if output is None else f' to {output}'}\n")
    return 0


app.command(decisions.replay)
app.command(decisions.discard)
app.command(decisions.prune)
