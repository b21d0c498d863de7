"""Arguments that make no sense: told as what they are in one line, before anything is done with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backfill.__main__ import app as backfill
from consumer.__main__ import app as consumer
from consumer.command_line import check_text, run
from consumer.errors import WrongUse
from tests.fixtures.processes import ROOT

NO_TEXT = os.fsdecode(b"\xff")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list", "--topic", NO_TEXT], r"--topic \xff"),
        (["list", "--topic", "a", "--cause", f"sy{NO_TEXT}ntax", "--json"], r"--cause sy\xffntax"),
        (["discard", "7", f"--reason=caf\N{LATIN SMALL LETTER E WITH ACUTE}{NO_TEXT}"], "--reason=caf\xe9\\xff"),
        (["show", "7", NO_TEXT], r"\xff"),
        ([f"--{NO_TEXT}", "7"], r"--\xff"),
        (
            ["list", "--topic", f"\x1b[2J{NO_TEXT}\n"],
            "--topic \N{REPLACEMENT CHARACTER}[2J\\xff\N{REPLACEMENT CHARACTER}",
        ),
        (["export", "--output", NO_TEXT, "--topic", NO_TEXT], r"--topic \xff"),
    ],
)
def test_an_argument_that_is_no_text_is_named(words: list[str], told: str) -> None:
    with pytest.raises(WrongUse) as raised:
        check_text(words)
    assert str(raised.value) == f"an argument is not UTF-8: {told}"


def test_text_and_names_of_files_are_let_through() -> None:
    check_text([])
    check_text(["list", "--topic", "Stra\N{LATIN SMALL LETTER SHARP S}e", "--cause", "\N{PILE OF POO}"])
    check_text(["export", "--output", NO_TEXT])
    check_text(["export", f"--output={NO_TEXT}"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("consumer dead-letters list --topic", "--topic "),
        ("consumer dead-letters list --cause=a --cause", "--cause "),
        ("consumer dead-letters discard 7 --yes --reason", "--reason "),
        ("consumer dead-letters show", ""),
        ("consumer", ""),
        ("backfill --all-accounts --date", "--date "),
        ("backfill explain --account 7 --date 2026-02-11 --metric", "--metric "),
        ("backfill set-timezone --account 7 --timezone", "--timezone "),
    ],
)
def test_the_programs_say_it_in_one_line(words: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words.split(), b"\xff"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "postgresql://localhost:9/none", "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"an argument is not UTF-8: {told}\\xff\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("consumer chek", "no such command: chek; did you mean check?"),
        ("consumer zzz", "no such command: zzz; there are check, dead-letters"),
        ("consumer check now", "one word too many: now; see python -m consumer check --help"),
        ("consumer dead-letter list", "no such command: dead-letter; did you mean dead-letters?"),
        ("consumer dead-letters lst", "no such command: lst; did you mean list?"),
        (
            "consumer dead-letters --since 2h list",
            "--since comes after the command: python -m consumer dead-letters COMMAND --since ...",
        ),
        ("consumer dead-letters list x", "one word too many: x; see python -m consumer dead-letters list --help"),
        (
            "consumer dead-letters discard 1",
            'Command "dead-letters discard" parameter --reason requires an argument; '
            "see python -m consumer dead-letters discard --help",
        ),
        ("backfill verfy --all-accounts --all-dates", "no such command: verfy; did you mean verify?"),
        ("backfill settimezone", "no such command: settimezone; did you mean set-timezone?"),
        ("backfill --account 1 2", "no such command: 2; there are close, explain, set-timezone, status, verify"),
        ("backfill --account 1 verify", "verify comes before all options: python -m backfill verify ..."),
        ("backfill verify all", "one word too many: all; see python -m backfill verify --help"),
        ("backfill --acount 1", "Unknown option: --acount. Did you mean --account? See python -m backfill --help"),
        (
            "backfill --account \x1b[2J",
            'Invalid value for --account: unable to convert "\N{REPLACEMENT CHARACTER}[2J" into int; '
            "see python -m backfill --help",
        ),
    ],
)
def test_wrong_words_and_options_are_one_line_with_what_is_right(
    words: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *rest = words.split()
    monkeypatch.setattr(sys, "argv", [program, *rest])
    assert run({"consumer": consumer, "backfill": backfill}[program]) == 2
    assert capsys.readouterr() == ("", f"{told}\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [("consumer --help", 0), ("consumer chek", 2), ("consumer check --timeout=0.1", 1), ("backfill --account 1", 2)],
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(words: str, code: int, closed: str) -> None:
    url = {"DATABASE_URL": "postgresql://127.0.0.1:9/none", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m {words} {closed}', sys.executable],
        cwd=ROOT,
        env={**os.environ, **url},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "consumer", "--help"], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"cannot write all of the output: No space left on device\n")
