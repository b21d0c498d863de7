"""How the programs' command lines end: with an exit code, and one line for what somebody must act on."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App

from consumer.errors import RollupError, WrongUse
from consumer.tables import harmless

OUTPUT = "--output"
"""The option that takes the name of a file, which may be any bytes."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run(app: App) -> int:
    """Run a command line and return its exit code; an error that somebody must act on becomes one line, and whoever
    reads the output may stop reading (`... | head`), which ends the command with 1."""
    try:
        check_text(sys.argv[1:])
        code = app() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"cannot write all of the output: {error.strerror}\n")
        return 1
    except RollupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def check_text(words: Sequence[str]) -> None:
    """Raises WrongUse for an argument that is no text: nothing that it could be compared with is like it."""
    for before, word in zip(["", *words], words, strict=False):
        try:
            word.encode()
        except UnicodeEncodeError:
            if before == OUTPUT or word.startswith(f"{OUTPUT}="):
                continue
            named = f"{before} {word}" if before.startswith("-") else word
            shown = harmless(os.fsencode(named).decode(errors="backslashreplace"))
            raise WrongUse(f"an argument is not UTF-8: {shown}") from None


def end_at_once(code: int) -> NoReturn:
    """End the process without waiting for threads, also those of libraries; what was written is there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
