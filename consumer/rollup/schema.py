"""Whether the database's schema is the one this program needs."""

import psycopg

from consumer.errors import SchemaError

NEEDED = ("0001", "0002", "0003", "0004", "0005")
"""Migrations this program relies on. A migration that code does not need yet (expand) may be there already."""

CODE = 1
"""Rises when a release stops relying on something that a later contract migration will remove."""

HOW = "apply the migrations: DATABASE_URL=... make migrate (or: dbmate up)"


def check_schema(conn: psycopg.Connection) -> str:
    """Return the newest applied migration.

    Raises:
        SchemaError: migrations are missing, or the schema has moved on to one that needs newer code.
    """
    if conn.execute("SELECT to_regclass('schema_migrations')").fetchone() == (None,):
        raise SchemaError(f"the database has no schema yet: {HOW}")
    applied = {row[0] for row in conn.execute("SELECT version FROM schema_migrations")}
    missing = [version for version in NEEDED if version not in applied]
    if missing:
        raise SchemaError(f"the schema lacks migration {', '.join(missing)}: {HOW}")
    row = conn.execute("SELECT needs_code FROM rollup_control").fetchone()
    if row is None:
        raise SchemaError("table rollup_control lost its row: INSERT INTO rollup_control DEFAULT VALUES")
    if row[0] > CODE:
        raise SchemaError(
            f"the schema needs programs of level {row[0]}, this one is level {CODE}: deploy a newer release"
        )
    return str(max(applied))
