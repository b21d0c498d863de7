"""How the programs' command lines end: with an exit code, and one line for what somebody must act on."""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError, UnknownCommandError, UnusedCliTokensError

from consumer.errors import RollupError, WrongUse
from consumer.tables import harmless

OUTPUT = "--output"
"""The option that takes the name of a file, which may be any bytes."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run(app: App) -> int:
    """Run a command line and return its exit code; an error that somebody must act on becomes one line, and whoever
    reads the output may stop reading (`... | head`), which ends the command with 1."""
    fill_standard_streams()
    try:
        check_text(sys.argv[1:])
        code = app(sys.argv[1:], print_error=False, exit_on_error=False) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        forget_output()
        return 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        forget_output()
        sys.stderr.write(f"cannot write all of the output: {error.strerror}\n")
        return 1
    except CycloptsError as error:
        sys.stderr.write(f"{told(error, app)}\n")
        return WrongUse.exit_code
    except RollupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def fill_standard_streams() -> None:
    """Let /dev/null stand in for those that were closed (`>&-`). Else the next socket would get the number of one, and
    all that libraries write there."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def told(error: CycloptsError, app: App) -> str:
    """What was wrong about the arguments, in one line, and where the right ones are."""
    program = " ".join([*app.name, *(error.command_chain or ())])
    if isinstance(error, UnusedCliTokensError | UnknownCommandError):
        word = (error.unused_tokens or [""])[0]
        commands = sorted(each for each in error.app or () if not each.startswith("-"))
        if word.startswith("-") and commands:
            return f"{harmless(word)} comes after the command: {program} COMMAND {harmless(word)} ..."
        if word in commands:
            return f"{word} comes before all options: {program} {word} ..."
        if commands:
            near = difflib.get_close_matches(word, commands, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
            return f"no such command: {harmless(word)}; {hint}"
        said = f"one word too many: {word}"
    else:
        said = str(error).removesuffix(".")
    return harmless(f"{said}{' See' if said.endswith('?') else '; see'} {program} --help")


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
    flush_log()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def flush_log() -> None:
    """Write log lines that are left, so that the exit code stays what it is where nobody takes them."""
    try:
        sys.stdout.flush()
    except OSError:
        forget_output()


def forget_output() -> None:
    """What is left of standard output goes nowhere; or Python complains when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
