"""`python -m consumer check`: a line for everything the consumer needs, good or bad."""

from typing import Any

import psycopg
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from local.migrate import MIGRATIONS
from local.processes import free_port
from tests.fixtures.processes import RunProgram
from tests.fixtures.roles import RolesDatabase
from tests.fixtures.services import MakeTopic, ServicesSession

Connection = psycopg.Connection[Any]

NEWEST = max(file.name[:4] for file in MIGRATIONS.glob("*.sql"))


def lines(out: str) -> dict[str, str]:
    """The findings by what was checked; each begins with ok or FAIL."""
    found = {}
    for line in out.splitlines():
        verdict, rest = line[:4], line[5:]
        subject, _, said = rest.partition(": ")
        assert verdict in {"ok  ", "FAIL"}
        found[subject] = f"{verdict.strip()} {said}"
    return found


def test_all_is_good(run_program: RunProgram, make_topic: MakeTopic) -> None:
    first, second = make_topic(3), make_topic(1)
    code, out, err = run_program("consumer", "check", KAFKA_TOPICS=f"{first},{second}")
    found = lines(out)
    assert (code, err) == (0, "")
    assert list(found) == [
        "configuration", "broker", f"topic {first}", f"topic {second}", "group reporting-rollup",
        "database", "clock", "schema", "time zones", "rights", "stored offsets",
    ]  # fmt: skip
    assert all(said.startswith("ok ") for said in found.values())
    assert "3 partitions" in found[f"topic {first}"]
    assert f"migrated up to {NEWEST}" in found["schema"]


def test_each_thing_that_is_wrong_is_told_with_the_way_out(
    run_program: RunProgram, services_session: ServicesSession
) -> None:
    code, out, _ = run_program(
        "consumer", "check", KAFKA_TOPICS="no-such-topic", DATABASE_URL=services_session.postgres.database_url
    )
    found = lines(out)
    assert code == 1
    assert found["topic no-such-topic"].startswith("FAIL ")
    assert "create it, or name another in KAFKA_TOPICS" in found["topic no-such-topic"]
    assert found["schema"].startswith("FAIL the database has no schema yet")
    assert "make migrate" in found["schema"]
    assert found["broker"].startswith("ok ")
    assert found["database"].startswith("ok ")
    assert found["clock"].startswith("ok ")


def test_rights_that_a_batch_needs(
    roles_database: RolesDatabase, run_program: RunProgram, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    for role, verdict in {"consumer": "ok all that a batch needs", "auditor": "FAIL missing: INSERT on"}.items():
        code, out, _ = run_program("consumer", "check", KAFKA_TOPICS=topic, DATABASE_URL=roles_database.url(role))
        assert lines(out)["rights"].startswith(verdict)
        assert code == (0 if role == "consumer" else 1)
    assert "TEMPORARY on the database" in lines(out)["rights"]
    with roles_database.connect() as admin:
        admin.execute(f'REVOKE SELECT ("offset") ON dead_letters FROM {roles_database.role("consumer")}'.encode())
    code, out, _ = run_program("consumer", "check", KAFKA_TOPICS=topic, DATABASE_URL=roles_database.url("consumer"))
    assert (code, lines(out)["rights"].partition(". ")[0]) == (1, 'FAIL missing: SELECT ("offset") on dead_letters')


def test_offsets_are_not_good_where_there_is_nothing_to_compare_with(conn: Connection, run_program: RunProgram) -> None:
    code, out, _ = run_program("consumer", "check", "--timeout=1", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert code == 1
    assert lines(out)["rights"].startswith("ok ")
    assert "stored offsets" not in lines(out)


def test_nothing_answers(run_program: RunProgram) -> None:
    port = free_port()
    code, out, err = run_program(
        "consumer",
        "check",
        "--timeout=1",
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}",
        DATABASE_URL=f"postgresql://someone:hidden@127.0.0.1:{port}/rollup",
    )
    found = lines(out)
    assert code == 1
    assert found["broker"].startswith(f"FAIL 127.0.0.1:{port} does not answer")
    assert "Check KAFKA_BOOTSTRAP_SERVERS" in found["broker"]
    assert found["database"].startswith("FAIL ")
    assert "Check DATABASE_URL" in found["database"]
    assert "hidden" not in out + err


def test_a_wrong_configuration(run_program: RunProgram) -> None:
    for name, value in {"OPEN_DAYS": "none", "KAFKA_NO_SUCH_THING": "1"}.items():
        code, out, _ = run_program("consumer", "check", **{name: value})
        assert code == 1
        assert lines(out)["configuration"].startswith("FAIL ")
        assert name.removeprefix("KAFKA_").lower().replace("_", ".") in out.lower().replace("_", ".")
        assert len(out.splitlines()) == 1


def test_a_gap_that_the_consumer_may_close_is_told_and_good(
    conn: Connection, kafka_bootstrap: str, run_program: RunProgram, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    topic_id = str(admin.describe_topics(TopicCollection([topic]))[topic].result().topic_id)
    conn.execute(
        "INSERT INTO consumer_offsets (group_id, topic, partition, topic_id, next_offset)"
        " VALUES ('reporting-rollup', %s, 0, %s, 7)",
        (topic, topic_id),
    )
    stored = conn.execute("SELECT * FROM consumer_offsets").fetchall()
    for choice, verdict in {"stop": "FAIL", "reset": "ok"}.items():
        code, out, _ = run_program("consumer", "check", KAFKA_TOPICS=topic, ON_OFFSET_GAP=choice)
        said = lines(out)[f"stored offset of {topic}[0]"]
        assert said.startswith(f"{verdict} {topic}[0]: the stored offset 7 lies beyond the log's end 0")
        assert said.endswith("goes on from 0" if choice == "reset" else "set ON_OFFSET_GAP=reset to go on from 0")
        assert code == (0 if choice == "reset" else 1)
    assert conn.execute("SELECT * FROM consumer_offsets").fetchall() == stored
