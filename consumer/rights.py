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
READ = {
    "dead_letters": (
        "group_id", "topic", "topic_id", "partition", "offset", "error_class", "replayed_at", "discarded_at",
    ),
}  # fmt: skip
"""Columns that must be readable where the table as a whole need not be: the letters' contents are not for everybody."""


def missing(conn: psycopg.Connection) -> list[str]:
    """The rights that the session's user lacks, in words; the schema must be there. Raises psycopg.Error."""
    wanted = [(table, right) for table, rights in NEEDED.items() for right in rights]
    columns = [(table, column) for table, columns in READ.items() for column in columns]
    parameters = {
        "tables": [table for table, _ in wanted],
        "rights": [right for _, right in wanted],
        "read": [table for table, _ in columns],
        "columns": [column for _, column in columns],
    }
    return [f"{right} on {name}" for right, name in conn.execute(_MISSING, parameters)]


_MISSING = """
    SELECT w.privilege, w.name
    FROM unnest(%(tables)s::text[], %(rights)s::text[]) WITH ORDINALITY AS w(name, privilege, position)
    WHERE NOT has_table_privilege(w.name, w.privilege)
    UNION ALL
    SELECT format('SELECT (%%I)', r."column"), r.name
    FROM unnest(%(read)s::text[], %(columns)s::text[]) AS r(name, "column")
    WHERE NOT has_column_privilege(r.name, r."column", 'SELECT')
    UNION ALL
    SELECT 'TEMPORARY', 'the database' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
"""
