"""Questions at a terminal: each shows its default, says what to enter instead of a wrong answer, and asks again.

Plain lines, no screen is taken over, so that a dialogue can be read afterwards and works over any connection.
"""

import select
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_UP_SECONDS = 0.2
LEFT = 1
"""Exit code of a dialogue that ended at Ctrl-D."""
INTERRUPTED = 130
"""Exit code of a dialogue that ended at Ctrl-C: what shells make of SIGINT."""


def on_terminal() -> bool:
    """Whether a person can read questions and answer them."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str = "") -> None:
    """Write a line to whoever answers."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ask(question: str, parse: Callable[[str], T], default: str | None = None) -> T:
    """Ask until `parse` takes the answer.

    Args:
        question: without mark or space at its end.
        parse: turns the answer, without spaces around it, into a value, or raises ValueError that says what to enter.
        default: what an empty answer means, as if it had been typed; None asks again.

    Raises:
        EOFError: Ctrl-D.
        KeyboardInterrupt: Ctrl-C.
    """
    shown = f"{question} [{default}]: " if default is not None else f"{question}: "
    while True:
        try:
            answer = _read_line(shown).strip() or default
        except UnicodeDecodeError:
            say("That is not text in this terminal's encoding; please type it again.")
            continue
        if answer is None:
            say("Please enter something, or press Ctrl-D to leave.")
            continue
        try:
            return parse(answer)
        except ValueError as error:
            say(f"{error}")


def confirm(question: str, *, default: bool) -> bool:
    """Ask for yes or no."""
    return ask(f"{question} (y/n)", _yes_or_no, "y" if default else "n")


def politely(dialogue: Callable[[], int]) -> int:
    """Run a dialogue that has changed nothing as long as it asks; whoever leaves it is told so.

    Returns:
        The dialogue's exit code, or `LEFT` or `INTERRUPTED`.
    """
    try:
        return dialogue()
    except EOFError:
        code = LEFT
    except KeyboardInterrupt:
        code = INTERRUPTED
    say("\nLeft; nothing was changed.")
    return code


def whole_number(what: str, least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers within bounds, for `ask`; `what` names the thing in errors, as "an account id"."""

    def parse(text: str) -> int:
        # Few digits only: int() of a long text takes long, and refuses with words of its own.
        if text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) <= 20:
            number = int(text)
            if least <= number <= most:
                return number
        raise ValueError(f"{text!r} is not {what}: enter a whole number from {least} to {most}")

    return parse


def _read_line(prompt: str) -> str:
    """`input()`, but no Ctrl-C is lost: that one would not notice it between showing the prompt and reading."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    # A signal ends the wait, unless it came just before: then this turn does. A terminal gives a line at a time, so
    # that none can hide in Python's buffer.
    while not select.select([sys.stdin], [], [], LOOK_UP_SECONDS)[0]:
        pass
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _yes_or_no(text: str) -> bool:
    if text.lower() in {"y", "yes"}:
        return True
    if text.lower() in {"n", "no"}:
        return False
    raise ValueError(f"{text!r} is neither yes nor no: enter y or n")
