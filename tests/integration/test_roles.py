"""Who may do what with every table: deploy/roles.sql held against a table of its own; no table goes undecided."""

import re
from typing import Any

import psycopg

from tests.fixtures.roles import ROLES, RolesDatabase
from tests.fixtures.services import ServicesSession

Connection = psycopg.Connection[Any]

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
COLUMN_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
SETTINGS = "account_id reporting_events_rollup reporting_timezone rollup_since"
LETTER = "discarded_at error_class group_id offset partition replayed_at topic topic_id"

EXPECTED: dict[str, dict[str, str]] = {
    "account_settings": {
        "consumer": f"SELECT({SETTINGS})",
        "operator": f"SELECT({SETTINGS})",
        "backfill": f"SELECT({SETTINGS}) INSERT(account_id reporting_timezone) UPDATE(reporting_timezone)",
        "auditor": f"SELECT({SETTINGS})",
        "reader": "SELECT(account_id reporting_events_rollup reporting_timezone)",
    },
    "backfill_runs": {"backfill": "SELECT INSERT UPDATE(finished_at)", "auditor": "SELECT"},
    "consumer_offsets": {
        "consumer": "SELECT INSERT UPDATE",
        "operator": "SELECT INSERT UPDATE",
        "backfill": "SELECT",
        "auditor": "SELECT",
    },
    "counted_events": {
        "consumer": "SELECT INSERT UPDATE",
        "operator": "SELECT INSERT UPDATE",
        "backfill": "SELECT INSERT UPDATE DELETE",
        "auditor": "SELECT",
    },
    "dead_letters": {
        "consumer": f"INSERT SELECT({LETTER})",
        "operator": "SELECT UPDATE(discard_reason discarded_at error_class outcome reason replayed_at tried_at)",
        "backfill": "SELECT",
        "auditor": "SELECT",
    },
    "iana_timezones": {},
    "late_events": {
        "consumer": "INSERT",
        "operator": "INSERT",
        "backfill": "SELECT INSERT DELETE",
        "auditor": "SELECT",
    },
    "reporting_events": {"backfill": "SELECT", "auditor": "SELECT"},
    "reporting_events_rollups": {
        "consumer": "SELECT INSERT UPDATE",
        "operator": "SELECT INSERT UPDATE",
        "backfill": "SELECT INSERT UPDATE DELETE",
        "auditor": "SELECT",
        "reader": "SELECT",
    },
    "rollup_control": dict.fromkeys(("consumer", "operator", "backfill", "auditor"), "SELECT"),
    "rollup_coverage": dict.fromkeys(("backfill", "auditor", "reader"), "SELECT"),
    "rollup_days": {
        "consumer": "SELECT INSERT UPDATE",
        "operator": "SELECT INSERT UPDATE",
        "backfill": "SELECT INSERT UPDATE",
        "auditor": "SELECT",
    },
    "rollup_members": {
        "consumer": "SELECT INSERT",
        "operator": "SELECT INSERT",
        "backfill": "SELECT INSERT DELETE",
        "auditor": "SELECT",
    },
    "schema_migrations": dict.fromkeys(("consumer", "operator", "backfill", "auditor"), "SELECT"),
}
"""What each role may do with each table and view, whole or (columns); nothing else, and no others may do anything."""

TEMPORARY = {"owner": False, "consumer": True, "operator": True, "backfill": True, "auditor": False, "reader": False}


def may(conn: Connection, question: str, **names: str) -> bool:
    """Ask one of PostgreSQL's has_..._privilege functions."""
    row = conn.execute(f"SELECT {question}", names).fetchone()
    return bool(row and row[0])


def relations(conn: Connection) -> dict[str, list[str]]:
    """Every table and view of the schema, and its columns."""
    found: dict[str, list[str]] = {}
    for name, column in conn.execute(
        "SELECT c.relname, a.attname FROM pg_class AS c"
        " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
    ):
        found.setdefault(name, []).append(column)
    return found


def rights(conn: Connection, role: str, table: str, columns: list[str]) -> str:
    """What a role may do with a table, in the words of EXPECTED."""
    words = []
    for privilege in PRIVILEGES:
        names = {"role": role, "table": table, "privilege": privilege}
        if may(conn, "has_table_privilege(%(role)s, quote_ident(%(table)s), %(privilege)s)", **names):
            words.append(privilege)
        elif privilege in COLUMN_PRIVILEGES and (
            some := [
                column
                for column in sorted(columns)
                if may(
                    conn,
                    "has_column_privilege(%(role)s, quote_ident(%(table)s), %(column)s, %(privilege)s)",
                    **names,
                    column=column,
                )
            ]
        ):
            words.append(f"{privilege}({' '.join(some)})")
    return " ".join(sorted(words, key=lambda word: word.split("(")[0]))


def in_order(words: str) -> str:
    """Rights in the order that `rights` gives."""
    return " ".join(sorted(re.findall(r"\w+(?:\([^)]*\))?", words), key=lambda word: word.split("(")[0]))


def test_every_right_on_every_table_is_decided(roles_database: RolesDatabase) -> None:
    with roles_database.connect() as conn:
        tables = relations(conn)
        undecided = tables.keys() - EXPECTED.keys()
        assert not undecided, f"decide in deploy/roles.sql, and here, who may do what with {sorted(undecided)}"
        assert tables.keys() == EXPECTED.keys()
        for table, columns in tables.items():
            for role in ROLES[1:]:
                found = rights(conn, roles_database.role(role), table, columns)
                assert found == in_order(EXPECTED[table].get(role, "")), f"{role} on {table}"


def test_the_applications_tables_stay_its_own(services_session: ServicesSession) -> None:
    """As docs/security.md says it: the owner is a member of the application's role while it migrates, and no longer."""
    database = RolesDatabase(services_session.postgres.database_url)
    try:
        database.create(application=True)
        with database.connect() as admin:
            owners = dict(
                admin.execute(
                    "SELECT relname, relowner::regrole::text FROM pg_class"
                    " WHERE relname IN ('account_settings', 'reporting_events', 'rollup_days')"
                ).fetchall()
            )
            assert owners == {
                "account_settings": database.application,
                "reporting_events": database.application,
                "rollup_days": database.role("owner"),
            }
            admin.execute(f"SET ROLE {database.application}".encode())
            admin.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'Asia/Tokyo')")
            admin.execute("UPDATE account_settings SET reporting_timezone = 'Europe/Paris'")
            admin.execute("RESET ROLE")
            assert admin.execute("SELECT DISTINCT timezone FROM rollup_days").fetchall() == [("Asia/Tokyo",)]
        with database.connect("backfill") as conn:
            assert conn.execute("SELECT count(*) FROM reporting_events").fetchone() == (0,)
    finally:
        database.drop()


def test_functions_are_for_those_who_need_them_and_nobody_creates_what_lasts(roles_database: RolesDatabase) -> None:
    with roles_database.connect() as conn:
        functions = [
            name
            for (name,) in conn.execute(
                "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            )
        ]
        sequences = [
            name
            for (name,) in conn.execute(
                "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"
            )
        ]
        assert len(functions) >= 5
        assert sequences
        for role in ROLES:
            name, others = roles_database.role(role), role != "owner"
            for function in functions:
                allowed = may(conn, "has_function_privilege(%(role)s, %(f)s, 'EXECUTE')", role=name, f=function)
                prunes = function.startswith("rollup_prune_dead_letters(") and role in {"operator", "backfill"}
                assert allowed is (prunes or not others), f"{role} on {function}"
            for sequence in sequences if others else ():
                question = "has_sequence_privilege(%(role)s, %(s)s, 'USAGE, SELECT, UPDATE')"
                assert not may(conn, question, role=name, s=sequence), f"{role} on {sequence}"
            assert may(conn, "has_schema_privilege(%(role)s, 'public', 'CREATE')", role=name) is not others
            database = {"role": name, "database": roles_database.name}
            assert not may(conn, "has_database_privilege(%(role)s, %(database)s, 'CREATE')", **database)
            temporary = may(conn, "has_database_privilege(%(role)s, %(database)s, 'TEMPORARY')", **database)
            assert temporary is TEMPORARY[role], role


def test_roles_are_no_more_than_their_rights(roles_database: RolesDatabase) -> None:
    with roles_database.connect() as conn:
        names = [roles_database.role(role) for role in ROLES]
        powers = conn.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND (rolsuper OR rolcreaterole OR rolcreatedb"
            " OR rolcanlogin OR rolreplication OR rolbypassrls)",
            (names,),
        ).fetchall()
        members = conn.execute(
            "SELECT r.rolname FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.member"
            " WHERE r.rolname = ANY(%s)",
            (names,),
        ).fetchall()
        owners = conn.execute(
            "SELECT DISTINCT pg_get_userbyid(o.owner) FROM ("
            " SELECT relowner FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS o (owner)"
        ).fetchall()
    assert (powers, members) == ([], [])
    assert owners == [(roles_database.role("owner"),)]


def test_run_again_it_changes_nothing_and_takes_back_what_was_granted_by_hand(roles_database: RolesDatabase) -> None:
    acls = (
        "SELECT c.relname, c.relowner, c.relacl::text, a.attname, a.attacl::text FROM pg_class AS c"
        " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attacl IS NOT NULL"
        " WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1, 4"
    )
    with roles_database.connect() as conn:
        before = conn.execute(acls).fetchall()
        assert roles_database.grant() == []
        assert conn.execute(acls).fetchall() == before
        reader = roles_database.role("reader")
        conn.execute(f"GRANT SELECT ON dead_letters TO {reader}")
        conn.execute(f"GRANT UPDATE (count) ON reporting_events_rollups TO {reader}")
        assert conn.execute(acls).fetchall() != before
        roles_database.grant()
        assert conn.execute(acls).fetchall() == before
