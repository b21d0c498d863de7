"""The statements in the docs run, and the tables in the design are those of the migrations."""

import re
from pathlib import Path

import pytest

from tests.fixtures.services import Connection

PROJECT = Path(__file__).parent.parent.parent
DESIGN = (PROJECT / "docs/design.md").read_text()
STATEMENTS = [
    (f"{page.name} {number}", statement)
    for page in [PROJECT / "README.md", *sorted(PROJECT.glob("docs/**/*.md"))]
    for number, statement in enumerate(re.findall(r"^```sql\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL), 1)
]
TABLES = re.findall(r"^### ([a-z_]+)\n(.*?)(?=^#)", DESIGN, re.MULTILINE | re.DOTALL)
OWN_TABLES = """
SELECT c.relname FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    AND c.relname NOT IN ('reporting_events', 'account_settings', 'iana_timezones', 'schema_migrations')
ORDER BY 1
"""
COLUMNS = """
SELECT a.attname, format_type(a.atttypid, NULL), coalesce(a.attnum = ANY(i.indkey), false)
FROM pg_attribute AS a LEFT JOIN pg_index AS i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


@pytest.mark.parametrize("statement", [s for _, s in STATEMENTS], ids=[name for name, _ in STATEMENTS])
def test_a_statement_of_the_docs_runs(conn: Connection, statement: str) -> None:
    conn.execute(statement)


def test_there_are_statements_and_tables_to_test() -> None:
    assert len(STATEMENTS) >= 8
    assert len(TABLES) >= 8


def test_every_table_is_described(conn: Connection) -> None:
    assert sorted(name for name, _ in TABLES) == [name for (name,) in conn.execute(OWN_TABLES)]


@pytest.mark.parametrize(("name", "text"), TABLES, ids=[name for name, _ in TABLES])
def test_columns_are_those_of_the_migrations(conn: Connection, name: str, text: str) -> None:
    described = [
        (column, kind, meaning.startswith("key"))
        for column, kind, meaning in re.findall(r"^\| (\w+) \| (\w+) \|(?: (.*))? \|$", text, re.MULTILINE)
        if column != "column"
    ]
    short = {"timestamp with time zone": "timestamptz"}
    assert described == [(c, short.get(str(t), t), key) for c, t, key in conn.execute(COLUMNS, (name,))]


def test_the_view_for_readers_is_as_described(conn: Connection) -> None:
    (described,) = re.findall(r"view `rollup_coverage\(([^)]+)\)`", DESIGN)
    assert described.split(", ") == [c for c, *_ in conn.execute(COLUMNS, ("rollup_coverage",))]
    source = str(conn.execute("SELECT pg_get_viewdef('rollup_coverage')").fetchall()[0][0])
    states = re.findall(r"'([a-z ]+)'::text", source)
    rows = re.findall(r"^\| ([a-z ]+) \| (?!what a)", DESIGN.split("## What readers may rely on")[1], re.MULTILINE)
    assert sorted(states) == sorted(rows)
