"""The rights that a consumer needs in PostgreSQL, and which of them it lacks. `deploy/roles.sql` grants them."""

import psycopg

NEEDED = {
    "consumer_offsets": ("SELECT", "INSERT", "UPDATE"),
    "counted_events": ("SELECT", "INSERT", "UPDATE"),
    "rollup_days": ("SELECT", "INSERT", "UPDATE"),
    "reporting_events_rollups": ("SELECT", "INSERT", "UPDATE"),
    "rollup_members": ("SELECT", "INSERT"),
    "late_events": ("INSERT",),
    "dead_letters": ("INSERT",),
}
"""What a batch does to each table."""


def missing(conn: psycopg.Connection) -> list[str]:
    """The rights that the session's user lacks, in words; the schema must be there. Raises psycopg.Error."""
    wanted = [(table, right) for table, rights in NEEDED.items() for right in rights]
    parameters = {"tables": [table for table, _ in wanted], "rights": [right for _, right in wanted]}
    return [f"{right} on {name}" for right, name in conn.execute(_MISSING, parameters)]


_MISSING = """
    SELECT w.privilege, w.name
    FROM unnest(%(tables)s::text[], %(rights)s::text[]) WITH ORDINALITY AS w(name, privilege, position)
    WHERE NOT has_table_privilege(w.name, w.privilege)
    UNION ALL
    SELECT 'TEMPORARY', 'the database' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
"""
