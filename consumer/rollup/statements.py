"""Loads `statements.sql`: every statement a literal string under its name, never glued from pieces."""

import re
from importlib import resources
from typing import Final, LiteralString

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _load() -> dict[str, LiteralString]:
    text = resources.files(__package__).joinpath("statements.sql").read_text(encoding="utf-8")
    parts = _HEADER.split(text)[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    if len(named) * 2 != len(parts):
        raise ValueError("statements.sql has two statements of one name")
    return {name: re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip() for name, body in named.items()}


STATEMENTS: Final = _load()
"""Statement name -> its text."""
