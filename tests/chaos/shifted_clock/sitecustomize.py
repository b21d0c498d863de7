"""A wall clock that a test moves: programs with this folder in PYTHONPATH run it as they start.

The file named by CLOCK_FILE holds the seconds by which `time.time`, `time.time_ns` and `datetime.now` are wrong. The
monotonic clock, the kernel's and those of C libraries stay as they are, as if a person had set the clock: only what
asks for the date sees it.
"""

import datetime as module
import os
import time
from pathlib import Path
from typing import Self

_file = Path(os.environ["CLOCK_FILE"])
_true_ns = time.time_ns
_TrueDatetime = module.datetime


def _shift_ns() -> int:
    return int(float(_file.read_text()) * 1e9)


def _time_ns() -> int:
    return _true_ns() + _shift_ns()


def _time() -> float:
    return _time_ns() / 1e9


class _ShiftedDatetime(_TrueDatetime):
    """The same class to whoever asks for instances: C code makes true ones."""

    @classmethod
    def now(cls, tz: module.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(_time(), tz)


time.time_ns = _time_ns
time.time = _time
module.datetime = _ShiftedDatetime  # type: ignore[misc]
