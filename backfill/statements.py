"""The statements of the backfill, by name."""

from typing import Final

from consumer.rollup.statements import load_statements

STATEMENTS: Final = load_statements("backfill", "statements.sql")
"""Statement name -> its text."""
