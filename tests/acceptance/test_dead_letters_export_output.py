"""`python -m consumer dead-letters export --output`, as it is used with pipes, links and by mistake."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.processes import ROOT

Connection = psycopg.Connection[Any]
LETTERS = 3


@pytest.fixture(autouse=True)
def _letters(conn: Connection) -> None:
    conn.execute(
        'INSERT INTO dead_letters (group_id, topic, topic_id, partition, "offset", value, error_class, reason)'
        " SELECT 'g', 't', 'i', 0, n, '{', 'syntax', 'no JSON' FROM generate_series(1, %s) AS n",
        [LETTERS],
    )


def export(database_url: str, output: str | Path, **opened: int) -> tuple[int, str]:
    """Exit code and standard error; `opened` may name another `stdout`."""
    done = subprocess.run(
        [sys.executable, "-m", "consumer", "dead-letters", "export", "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url},
        stdin=subprocess.DEVNULL,
        stdout=opened.get("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        check=False,
        text=True,
    )
    return done.returncode, done.stderr


def offsets(lines: str) -> list[int]:
    return [json.loads(line)["offset"] for line in lines.splitlines()]


def test_a_link_and_a_pipe_stay_and_get_the_letters(database_url: str, tmp_path: Path) -> None:
    link, target, pipe = tmp_path / "link", tmp_path / "letters.jsonl", tmp_path / "pipe"
    link.symlink_to(target)
    target.write_text("before")
    assert export(database_url, link) == (0, f"{LETTERS} letters exported to {link}\n")
    assert link.is_symlink()
    assert offsets(target.read_text()) == [1, 2, 3]

    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert export(database_url, pipe) == (0, f"{LETTERS} letters exported to {pipe}\n")
    reader.join(10)
    assert pipe.is_fifo()
    assert offsets(read[0]) == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.jsonl", "link", "pipe"]


def test_standard_output_by_its_path_is_what_it_is_without_one(database_url: str, tmp_path: Path) -> None:
    """By a link of the test's own, which is what /dev/stdout is: a test that fails must not replace the machine's."""
    link, log = tmp_path / "stdout", tmp_path / "log"
    link.symlink_to("/proc/self/fd/1")
    log.write_text('{"offset": 0}\n')
    with log.open("a") as appending:
        assert export(database_url, link, stdout=appending.fileno())[0] == 0
    assert offsets(log.read_text()) == [0, 1, 2, 3]
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "stdout"]


@pytest.mark.parametrize(("output", "said"), [("", "it is empty"), ("{tmp}", "Is a directory")])
def test_wrong_use_is_told_in_one_line(database_url: str, tmp_path: Path, output: str, said: str) -> None:
    code, err = export(database_url, output.format(tmp=tmp_path))
    assert code == 2
    [line] = err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []
