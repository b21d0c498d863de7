"""What the command lines of the benchmarks share."""

import argparse
import sys
from types import FrameType


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A signal handler: ends the run as Ctrl-C does, so that everything that was started is stopped."""
    raise KeyboardInterrupt


def say(text: str) -> None:
    """Progress, beside the report on standard output."""
    print(text, file=sys.stderr, flush=True)


def whole(text: str) -> int:
    """An argument that is 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def positive(text: str) -> int:
    """An argument that is above 0."""
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number
