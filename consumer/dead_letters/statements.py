"""The statements of statements.sql."""

from typing import Final

from consumer.rollup.statements import load_statements

STATEMENTS: Final = load_statements("consumer.dead_letters", "statements.sql")
"""Statement name -> its text."""
