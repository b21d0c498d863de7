"""How the programs' command lines end: with an exit code, and one line for what somebody must act on."""

import sys

from cyclopts import App

from consumer.errors import RollupError


def run(app: App) -> int:
    """Run a command line and return its exit code; an error that somebody must act on becomes one line."""
    try:
        return app() or 0
    except RollupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
