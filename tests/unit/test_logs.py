"""Log lines: one object a line, fixed words, no payloads and no secrets, at once on standard output."""

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from consumer import logs
from consumer.logs import KAFKA_LOGGER, Event, redact

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert not err
    return [json.loads(line) for line in out.splitlines()]


def test_a_line_is_an_object_that_leads_with_time_level_and_word(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.warning(Event.OFFSET_GAP, topic="events", partition=3, offset=17)
    [line] = lines(capsys)
    assert list(line) == ["timestamp", "level", "event", "topic", "partition", "offset"]
    assert (line["level"], line["event"], line["offset"]) == ("warning", "offset_gap", 17)
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == datetime.now(UTC).utcoffset()


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_filters_ours_and_others(level: str, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level)
    other = logging.getLogger("some.library")
    for word in ("debug", "info", "warning", "error"):
        getattr(log, word)(Event.STARTED)
        getattr(other, word)("hello")
    events = [line["event"] for line in lines(capsys)]
    assert events.count("started") == events.count("library") == expected


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    log.info(Event.STARTED, topic="events")
    out = capsys.readouterr().out
    assert re.search(r"started\s+topic=events", out)
    assert not out.startswith("{")


def test_lines_of_librdkafka_and_of_libraries_take_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger(KAFKA_LOGGER).error("FAIL [thrd:%s]: refused", "main")
    logging.getLogger("psycopg.pool").warning("connecting to %r", "postgresql://u:hunter2@db/x")
    kafka, library = lines(capsys)
    assert (kafka["event"], kafka["level"], kafka["message"]) == ("kafka_client", "error", "FAIL [thrd:main]: refused")
    assert (library["event"], library["logger"]) == ("library", "psycopg.pool")
    assert library["message"] == "connecting to 'postgresql://u:***@db/x'"


def test_payloads_and_secrets_do_not_get_through(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.error(
        Event.DEAD_LETTERS,
        value="hunter2",
        key=b"hunter2",
        headers=[("a", b"hunter2")],
        raw=b"hunter2",
        sasl_password="hunter2",
        nested={"sasl.password": "hunter2", "list": ["postgresql://u:hunter2@h/d", b"hunter2"]},
        error=ValueError("password=hunter2"),
        offset=5,
    )
    [line] = lines(capsys)
    assert "hunter2" not in json.dumps(line)
    assert line["raw"] == "<7 bytes>"
    assert line["nested"]["list"] == ["postgresql://u:***@h/d", "<7 bytes>"]
    assert line["offset"] == 5


def test_a_traceback_is_in_its_line_without_the_row_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    text = "no\nDETAIL:  Failing row contains (hunter2).\nat postgresql://u:hunter2@h/d"
    for name in ("ours", "theirs"):
        try:
            raise RuntimeError(text)
        except RuntimeError:
            if name == "ours":
                log.exception(Event.FAILED)
            else:
                logging.getLogger("x").exception("failed")
    for line in lines(capsys):
        assert "RuntimeError: no\nDETAIL: ***\nat postgresql://u:***@h/d" in line["exception"]
        assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://app:hunter2@db:5432/x", "postgresql://app:***@db:5432/x"),
        ("postgresql://app:hun@ter2@db/x", "postgresql://app:***@db/x"),
        (
            "postgresql://app@db/x?password=hunter2&sslpassword=hunter2",
            "postgresql://app@db/x?password=***",
        ),
        ("host=db password=hunter2 user=app", "host=db password=*** user=app"),
        (r"host=db PASSWORD = 'hun\'ter 2' user=app", "host=db PASSWORD = *** user=app"),
        ("{'sasl.password': 'hunter2', 'a': 1}", "{'sasl.password': ***, 'a': 1}"),
        ("password=a\"hunter2'hunter2 user=app", "password=*** user=app"),
        ('required password="hun ter2";', "required password=***"),
        ('{"password": "hun\\"ter2"}', '{"password": ***}'),
        ("client.secret=hunter2", "client.secret=***"),
        ("postgresql://postgres@127.0.0.1:5432/postgres", "postgresql://postgres@127.0.0.1:5432/postgres"),
        ("SASL_SSL://broker:9092 is down, ask ops@example.com", "SASL_SSL://broker:9092 is down, ask ops@example.com"),
        ("password authentication failed for user app", "password authentication failed for user app"),
    ],
)
def test_redaction_hides_secrets_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_bound_context_is_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with structlog.contextvars.bound_contextvars(group="g"):
        log.info(Event.STARTED)
    log.info(Event.STOPPED)
    first, second = lines(capsys)
    assert first["group"] == "g"
    assert "group" not in second


@pytest.mark.parametrize("event", list(Event))
def test_a_word_is_one_word_with_a_meaning(event: Event) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event)
    assert event.name == event.value.upper()
    assert event.meaning.endswith(".")


def test_a_line_is_out_while_the_process_goes_on() -> None:
    program = (
        "import sys, structlog\n"
        "from consumer import logs\n"
        "logs.configure()\n"
        "structlog.get_logger().info(logs.Event.STARTED)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        # The child waits for its standard input, which stays open until the line is here.
        line = json.loads(child.stdout.readline())
        assert child.poll() is None
        child.stdin.close()
    assert line["event"] == "started"
    assert child.returncode == 0


def test_a_line_that_librdkafka_repeats_is_written_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("consumer.logs.time.monotonic", lambda: now)
    logs.configure()
    kafka, other = logging.getLogger(KAFKA_LOGGER), logging.getLogger("other")
    for client in (1, 2, 3):
        for broker in (1, 2):
            kafka.error(
                "FAIL [rdkafka#%s] [thrd:b:%s]: b:%s: refused (after %dms in state X)", client, broker, broker, client
            )
        other.warning("refused")
    first, second, *others = lines(capsys)
    assert "b:1: refused" in first["message"]
    assert "b:2: refused" in second["message"]
    assert [line["event"] for line in others] == ["library"] * 3
    now += logs.REPEAT_SECONDS
    kafka.error("FAIL [rdkafka#1] [thrd:b:1]: b:1: refused (after 7ms in state X)")
    [line] = lines(capsys)
    assert line["repeated"] == 2
    now += logs.REPEAT_SECONDS
    kafka.error("FAIL [rdkafka#1] [thrd:b:1]: b:1: refused (after 8ms in state X)")
    assert "repeated" not in lines(capsys)[0]
    for number in range(5_000):  # memory is bounded, and what is new is always written
        kafka.error("number %d", number)
    assert len(lines(capsys)) == 5_000


@pytest.mark.parametrize("end", ["command_line.flush_log(); sys.exit(6)", "command_line.end_at_once(6)"])
def test_where_nobody_takes_the_lines_the_exit_code_stays(end: str) -> None:
    program = f"""
import logging, sys
from consumer import command_line, logs
logs.configure()
logging.getLogger("any").info("a line")
{end}
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
            text=True,
        )
    assert done.returncode == 6
    assert done.stderr.startswith("log lines are lost: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("taker", ["> /dev/full", "| true"])
def test_where_nobody_takes_the_lines_the_program_goes_on_and_says_so_once(taker: str) -> None:
    program = """
        import logging, os, time
        from consumer import logs
        logs.configure()
        time.sleep(0.3)
        for number in range(3):
            logging.getLogger("any").info("a line")
        os.write(2, b"still here\\n")
        os._exit(0)
    """
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" {taker}', sys.executable, textwrap.dedent(program)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert re.fullmatch(r"log lines are lost: \[Errno \d+\] [\w ]+\nstill here\n", done.stderr)
