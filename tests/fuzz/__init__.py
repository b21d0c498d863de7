"""Messages that nobody meant to send, from the decoder to the tables and through a real topic.

Whatever the bytes: no crash, no hang, no wrong count for the good messages beside them, and each bad message is a dead
letter once, as it was.

`make test` tries a few hundred messages. More: `FUZZ=50 make test`, or only these: `FUZZ=50 .venv/bin/python -m pytest
tests/fuzz` tries fifty times as many. A failure prints the message, as small as hypothesis could make it, and how to
repeat it.
"""

import os

MORE = int(os.environ.get("FUZZ", "1"))


def examples(usual: int) -> int:
    """How many examples to try, where `make test` tries `usual`."""
    return usual * MORE
