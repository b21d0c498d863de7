"""Whether the database's schema, and the time zones set in it, are ones that this program can work with."""

from collections.abc import Mapping

import psycopg

from consumer.errors import SchemaError
from consumer.rollup.days import is_known, tzdata_version

NEEDED = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Migrations this program relies on. A migration that code does not need yet (expand) may be there already."""

CODE = 1
"""Rises when a release stops relying on something that a later contract migration will remove."""

HOW = "apply the migrations: DATABASE_URL=... make migrate (or: dbmate up)"

CONTROL_LOST = "table rollup_control lost its row: INSERT INTO rollup_control DEFAULT VALUES"


def check_schema(conn: psycopg.Connection) -> str:
    """Return the newest applied migration.

    Raises:
        SchemaError: migrations are missing, or the schema has moved on to one that needs newer code; or the database
            cannot hold every text.
    """
    encoding = conn.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(
            f"the database's encoding is {encoding}: dead letters have texts that it cannot hold. Create one with "
            "ENCODING 'UTF8' TEMPLATE template0"
        )
    if conn.execute("SELECT to_regclass('schema_migrations')").fetchone() == (None,):
        raise SchemaError(f"the database has no schema yet: {HOW}")
    applied = {row[0] for row in conn.execute("SELECT version FROM schema_migrations")}
    missing = [version for version in NEEDED if version not in applied]
    if missing:
        raise SchemaError(f"the schema lacks migration {', '.join(missing)}: {HOW}")
    row = conn.execute("SELECT needs_code FROM rollup_control").fetchone()
    if row is None:
        raise SchemaError(CONTROL_LOST)
    if row[0] > CODE:
        raise SchemaError(
            f"the schema needs programs of level {row[0]}, this one is level {CODE}: deploy a newer release"
        )
    return str(max(applied))


def check_zones(conn: psycopg.Connection) -> int:
    """Return how many time zones accounts are in.

    Raises:
        SchemaError: a newer release's migrations allow one that this program's tzdata does not have.
    """
    found: dict[str, int] = dict(conn.execute(_ZONES_IN_USE).fetchall())
    refuse_unknown_zones(found)
    return len(found)


_ZONES_IN_USE = """
    SELECT reporting_timezone, min(account_id) FROM account_settings
    WHERE reporting_timezone IS NOT NULL GROUP BY reporting_timezone
"""


def refuse_unknown_zones(accounts: Mapping[str, int]) -> None:
    """Raise SchemaError if there is a name among them, each with an account that has it, which is not in our tzdata.

    Its events have no date for us, and offsets move past all messages or past none: so all accounts wait.
    """
    if unknown := sorted((account, name) for name, account in accounts.items() if not is_known(name)):
        listed = ", ".join(f"{name!r} (account {account})" for account, name in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise SchemaError(
            f"account_settings.reporting_timezone has {listed}{more}, which this program's tzdata {tzdata_version()} "
            "does not know, so that events have no date: deploy the newer release, or set another time zone there"
        )
