"""Loads files of statements: each a literal string under its name, never glued from pieces."""

import re
from importlib import resources
from typing import Final, LiteralString

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_statements(package: str, file: str) -> dict[str, LiteralString]:
    """Statement name -> its text, from a file beside the modules of `package`; each follows a line `-- name: ...`."""
    parts = _HEADER.split(resources.files(package).joinpath(file).read_text(encoding="utf-8"))[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    if len(named) * 2 != len(parts):
        raise ValueError(f"{file} has two statements of one name")
    return {name: re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip() for name, body in named.items()}


STATEMENTS: Final = load_statements("consumer.rollup", "statements.sql")
"""Statement name -> its text."""
