"""`python -m consumer dead-letters`, as a person and a script use it: letters of a real consumer, and what is told."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from psycopg.conninfo import make_conninfo

from tests.fixtures.events import total, wait_until_read
from tests.fixtures.letters import WRAPPER
from tests.fixtures.processes import ROOT, RunProgram, StartConsumer
from tests.fixtures.services import MakeTopic
from tests.fixtures.terminal import StartTerminal

Connection = psycopg.Connection[Any]

BINARY = b"\xff\x00" * 300
NAUGHTY = b'{"id": "\x1b[2J seven"}'
COMMAND = ("consumer", "dead-letters")


def good(event_id: int, **columns: object) -> bytes:
    """An event of today."""
    with_defaults = {"id": event_id, "name": "reply_time", "account_id": 42, "value": 1.5, **columns}
    return json.dumps({"created_at": "2026-03-11T12:00:00Z", **with_defaults}).encode()


@pytest.fixture
def topic(conn: Connection, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer) -> str:
    """A topic of six messages that a consumer has read: one counted, one skipped, and four that died."""
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'Europe/Paris')")
    name = make_topic(2)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    headers: list[tuple[str, Any]] = [("trace", b"abc"), ("trace", b"\xff"), ("empty", None)]
    producer.produce(name, good(1), b"42", partition=0)
    producer.produce(name, WRAPPER + good(2), b"42", partition=0, headers=headers)
    producer.produce(name, BINARY, None, partition=0)
    producer.produce(name, NAUGHTY, b"\xfe", partition=1)
    producer.produce(name, good(2**63), b"42", partition=1)
    producer.produce(name, good(3, name="nothing"), b"42", partition=1)
    assert producer.flush(30) == 0
    consumer = start_consumer(name)
    wait_until_read(conn, kafka_bootstrap, name, consumer)
    assert consumer.terminate() == 0
    return name


def ids(conn: Connection) -> dict[bytes, int]:
    """The id of each letter by its value."""
    return dict(conn.execute("SELECT value, id FROM dead_letters").fetchall())


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_list_filters_and_counts(topic: str, run_program: RunProgram) -> None:
    code, out, err = run_program(*COMMAND, "list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["id", "recorded", "message", "cause", "reason"]
    assert len(lines) == 1 + 4 + 1 + 1 + 3
    assert f"{topic}[0]@2" in out
    assert lines[7].split()[:2] == ["syntax", "2"]

    _, out, _ = run_program(*COMMAND, "list", "--json", "--partition", "1", "--since", "1h")
    assert [(r["offset"], r["cause"], r["state"]) for r in records(out)] == [
        (1, "range", "waiting"),
        (0, "syntax", "waiting"),
    ]
    assert "value" not in records(out)[0]
    _, out, _ = run_program(*COMMAND, "list", "--json", "--cause", "range", "--cause", "encoding")
    assert {r["cause"] for r in records(out)} == {"range", "encoding"}
    _, out, _ = run_program(*COMMAND, "list", "--limit", "2")
    assert "2 of 4 are listed; --limit lists more" in out
    assert run_program(*COMMAND, "list", "--until", "1h") == (0, "no dead letters (waiting) fit\n", "")
    assert run_program(*COMMAND, "list", "--topic", "other", "--state", "all") == (0, "no dead letters fit\n", "")


def test_show_has_everything(topic: str, conn: Connection, run_program: RunProgram) -> None:
    letter = ids(conn)
    code, out, err = run_program(
        *COMMAND, "show", str(letter[WRAPPER + good(2)]), str(letter[BINARY]), str(letter[NAUGHTY]), KAFKA_TOPICS=topic
    )
    assert (code, err) == (0, "")
    first, second, third = out.split("\n\n")
    assert f"{topic}[0]@1" in first
    assert '"account_id": 42' in first
    assert [line.split(maxsplit=2)[1:] for line in first.splitlines() if line.startswith("header")] == [
        ["trace", "abc"],
        ["trace", "hex ff"],
        ["empty", "none"],
    ]
    assert "today         still no event: syntax" in first
    assert "key           42" in first
    assert "base64 /wD/AP" in second
    assert "key       none" in second
    assert "seven" in third  # without what would move a cursor
    assert "\x1b" not in third
    assert "hex fe" in third

    _, out, _ = run_program(*COMMAND, "show", str(letter[BINARY]))
    assert "KAFKA_TOPICS does not name its topic" in out

    conn.execute("UPDATE dead_letters SET replayed_at = now(), outcome = 'counted'")
    _, out, _ = run_program(*COMMAND, "show", str(letter[BINARY]), KAFKA_TOPICS=topic)
    assert "today" not in out  # what a replay would make of it is behind it
    code, out, err = run_program(*COMMAND, "show", "--json", "9999", str(letter[BINARY]))
    assert (code, err) == (1, "there is no dead letter 9999\n")
    assert base64.b64decode(records(out)[0]["value_base64"]) == BINARY


def test_long_contents_are_cut_unless_asked_for(topic: str, conn: Connection, run_program: RunProgram) -> None:
    conn.execute("UPDATE dead_letters SET value = convert_to(repeat('x', 5000), 'UTF8')")
    letter = str(next(iter(ids(conn).values())))
    _, out, _ = run_program(*COMMAND, "show", letter)
    assert "xxx... (5000 bytes; --full shows all)" in out
    assert "x" * 1001 not in out
    _, out, _ = run_program(*COMMAND, "show", letter, "--full")
    assert "x" * 5000 in out


def test_export_loses_nothing_and_leaves_no_half_a_file(
    topic: str, conn: Connection, run_program: RunProgram, database_url: str, tmp_path: Path
) -> None:
    target = tmp_path / "letters.jsonl"
    code, out, err = run_program(*COMMAND, "export", "--output", str(target))
    assert (code, out, err) == (0, "", f"4 letters exported to {target}\n")
    assert target.stat().st_mode & 0o777 == 0o600
    stored = conn.execute("SELECT id, key, value FROM dead_letters ORDER BY id").fetchall()
    exported = records(target.read_text())
    assert [(r["id"], decoded(r, "key"), decoded(r, "value")) for r in exported] == stored
    (with_headers,) = [r for r in exported if r["headers"]]
    assert [(h["name"], decoded(h, "value")) for h in with_headers["headers"]] == [
        ("trace", b"abc"),
        ("trace", b"\xff"),
        ("empty", None),
    ]
    code, out, _ = run_program(*COMMAND, "export", "--cause", "encoding")
    assert (code, [r["cause"] for r in records(out)]) == (0, ["encoding"])

    before = target.read_bytes()
    elsewhere = make_conninfo(database_url, dbname="none")
    code, _, err = run_program(*COMMAND, "export", "--output", str(target), DATABASE_URL=elsewhere)
    assert (code, err.startswith("database: ")) == (1, True)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["letters.jsonl"]
    code, _, err = run_program(*COMMAND, "export", "--output", str(tmp_path / "none" / "x"))
    assert (code, "No such file or directory; name another --output" in err) == (2, True)


def decoded(record: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_base64" in record:
        return base64.b64decode(record[f"{name}_base64"])
    text: str | None = record[name]
    return None if text is None else text.encode()


def test_replay_counts_what_became_good_and_says_the_rest(
    topic: str, conn: Connection, run_program: RunProgram
) -> None:
    letter = ids(conn)
    mended, broken = letter[WRAPPER + good(2)], letter[BINARY]
    # As if the handler had learnt the newer form meanwhile.
    conn.execute("UPDATE dead_letters SET value = %s WHERE id = %s", (good(2), mended))
    code, out, err = run_program(*COMMAND, "replay", "--all")
    assert (code, err) == (1, "")
    assert f"KAFKA_TOPICS={topic}:json" in out
    assert "4 letters: 4 of topics that KAFKA_TOPICS does not name" in out

    code, out, err = run_program(*COMMAND, "replay", "--all", "--dry-run", KAFKA_TOPICS=topic)
    assert (code, err) == (1, "")
    assert f"{mended}  {topic}[0]@1  late event 2 of account 42 on 2026-03-11" in out
    assert "4 letters would be: 1 late, for a rebuild of their days, 3 still bad" in out
    assert total(conn).dead == 4

    code, out, _ = run_program(*COMMAND, "replay", str(mended), "--json", KAFKA_TOPICS=topic)
    (told,) = records(out)
    assert (code, told["outcome"], told["event_id"], told["day"]) == (0, "late", 2, "2026-03-11")
    code, out, _ = run_program(*COMMAND, "replay", "--cause", "encoding", KAFKA_TOPICS=topic)
    assert (code, f"{broken}  {topic}[0]@2  bad: the message is not UTF-8" in out) == (1, True)
    code, out, _ = run_program(*COMMAND, "replay", str(mended), "9999", KAFKA_TOPICS=topic)
    assert (code, "9999    unknown: there is no such letter" in out) == (1, True)
    assert "1 replayed before, 1 unknown" in out
    _, out, _ = run_program(*COMMAND, "list", "--state", "replayed")
    assert ": late" in out
    balance = total(conn)
    assert (balance.messages, balance.late, balance.skipped, balance.dead) == (6, 2, 1, 3)


def test_discard_needs_a_reason_and_an_agreement(
    topic: str, conn: Connection, run_program: RunProgram, start_terminal: StartTerminal
) -> None:
    letter = ids(conn)
    broken = letter[BINARY]
    assert run_program(*COMMAND, "discard", str(broken), "--reason", "noise")[::2] == (
        2,
        "without a terminal to ask on, discard needs --yes\n",
    )
    assert run_program(*COMMAND, "discard", "--all", "--reason", " ", "--yes")[0] == 2
    assert run_program(*COMMAND, "discard", "--reason", "noise", "--yes")[0] == 2
    assert conn.execute("SELECT count(discarded_at) FROM dead_letters").fetchone() == (0,)

    assert run_program(*COMMAND, "discard", str(broken), "9999", "--reason", "noise", "--yes") == (
        1,
        "1 letters discarded\n",
        "dead letter 9999 does not exist\n",
    )
    terminal = start_terminal("consumer", "dead-letters", "discard", "--partition", "1", "--reason", "a test of ours")
    terminal.expect("Discard 2 dead letters (1 range, 1 syntax)? (y/n) [n]: ")
    terminal.type("n\n")
    assert terminal.end() == (1, "n\nLeft; nothing was changed.\n")
    terminal = start_terminal("consumer", "dead-letters", "discard", "--partition", "1", "--reason", "a test of ours")
    terminal.expect("(y/n) [n]: ")
    terminal.interrupt()
    code, shown = terminal.end()
    assert (code, shown.endswith("\nLeft; nothing was changed.\n")) == (130, True)
    terminal = start_terminal("consumer", "dead-letters", "discard", "--partition", "1", "--reason", "a test of ours")
    terminal.expect("(y/n) [n]: ")
    terminal.type("y\n")
    assert terminal.end() == (0, "y\n2 letters discarded\n")
    rows = conn.execute("SELECT id, discard_reason FROM dead_letters WHERE discarded_at IS NOT NULL ORDER BY id")
    assert dict(rows) == {broken: "noise", letter[NAUGHTY]: "a test of ours", letter[good(2**63)]: "a test of ours"}

    code, out, _ = run_program(*COMMAND, "replay", str(broken), KAFKA_TOPICS=topic)
    assert (code, f"{broken}  {topic}[0]@2  discarded: noise" in out) == (1, True)
    assert total(conn).dead == 4


def test_prune_keeps_what_waits_and_what_ended_lately(topic: str, conn: Connection, run_program: RunProgram) -> None:
    run_program(*COMMAND, "discard", "--all", "--reason", "noise", "--yes")
    conn.execute("UPDATE dead_letters SET discarded_at = now() - interval '8 days' WHERE partition = 0")
    conn.execute("UPDATE dead_letters SET created_at = now() - interval '900 days'")
    assert run_program(*COMMAND, "prune", DEAD_LETTER_RETENTION_DAYS="0") == (
        0,
        "nothing deleted: DEAD_LETTER_RETENTION_DAYS is 0\n",
        "",
    )
    assert run_program(*COMMAND, "prune")[1] == "0 letters deleted\n"
    assert run_program(*COMMAND, "prune", "--days", "7")[1] == "2 letters deleted\n"
    assert conn.execute("SELECT array_agg(DISTINCT partition) FROM dead_letters").fetchone() == ([1],)
    conn.execute("UPDATE dead_letters SET discarded_at = NULL, discard_reason = NULL")  # nobody decided yet
    assert run_program(*COMMAND, "prune", "--days", "7")[1] == "0 letters deleted\n"


def test_whoever_reads_may_stop_reading(conn: Connection, database_url: str) -> None:
    conn.execute(
        'INSERT INTO dead_letters (group_id, topic, topic_id, partition, "offset", value, error_class, reason)'
        " SELECT 'g', 't', 'i', 0, n, convert_to(repeat('x', 100000), 'UTF8'), 'syntax', 'no JSON'"
        " FROM generate_series(1, 5) AS n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", *COMMAND, "export"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
