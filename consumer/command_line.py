"""How the programs' command lines end: with an exit code, and one line for what somebody must act on."""

import os
import sys
from typing import NoReturn

from cyclopts import App

from consumer.errors import RollupError


def run(app: App) -> int:
    """Run a command line and return its exit code; an error that somebody must act on becomes one line, and whoever
    reads the output may stop reading (`... | head`), which ends the command with 1."""
    try:
        code = app() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 1
    except RollupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def end_at_once(code: int) -> NoReturn:
    """End the process without waiting for threads, also those of libraries; what was written is there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
