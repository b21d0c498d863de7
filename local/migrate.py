"""`python -m local.migrate`: brings the database named by DATABASE_URL to the newest schema, with dbmate.

`DATABASE_URL_FILE` names a file with that URL instead.

`--down` rolls the newest migration back, `--status` lists them. Two at once are safe: the second one waits.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from consumer.connection_uri import HOW, misread
from consumer.errors import ConfigurationError
from consumer.kafka_properties import read_secret_file
from local.processes import LocalError

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def migrate(database_url: str, *, down: bool = False, folder: Path = MIGRATIONS) -> None:
    """Apply every migration of `folder` that the database does not have yet, or roll the newest one back.

    Makes the database when it is not there. Each migration is one transaction, so that a failing one leaves
    nothing behind. Waits for others that migrate the same database. Raises `LocalError`.
    """
    # The lock makes concurrent runs wait for each other; dbmate takes none unless told.
    words = ("--migration-lock", "rollback" if down else "up")
    url = _for_dbmate(database_url)
    try:
        _dbmate(url, folder, *words)
    except LocalError as error:
        if not any(sign in str(error) for sign in ("(42P04)", "pg_database_datname_index")):
            raise
        _dbmate(url, folder, *words)  # somebody else made the database a moment before us, and no lock lies outside


def status(database_url: str, *, folder: Path = MIGRATIONS) -> str:
    """Which migrations of `folder` the database has, for people. Raises `LocalError`."""
    return _dbmate(_for_dbmate(database_url), folder, "status")


def _dbmate(url: str, folder: Path, *words: str) -> str:
    if not folder.is_dir():
        raise LocalError(f"there is no folder of migrations at {folder}")
    result = subprocess.run(
        # No environment file: dbmate would read .env of whatever folder this is called in.
        [_binary(), "--env-file", os.devnull, "--no-dump-schema", "--migrations-dir", folder, *words],
        env={k: v for k, v in os.environ.items() if not k.startswith("DBMATE_")} | {"DATABASE_URL": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        said = "\n".join(part.strip() for part in (result.stdout, result.stderr) if part.strip())
        raise LocalError(f"dbmate {words[-1]} of {folder} on {_shown(url)} failed:\n{said}")
    return result.stdout.strip()


def _binary() -> str:
    # Beside this Python and not behind its symbolic link: that is the virtual environment.
    beside = Path(sys.executable).parent / "dbmate"
    found = str(beside) if beside.exists() else shutil.which("dbmate")
    if not found:
        raise LocalError(f"there is no dbmate beside {sys.executable} or in PATH: run `make setup`")
    return found


def _for_dbmate(url: str) -> str:
    """The URL with `sslmode=disable` for this very machine: dbmate's driver would insist on TLS by default."""
    if misread(url):
        raise LocalError(f"the parts of DATABASE_URL do not fit: {HOW}")
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise LocalError("DATABASE_URL must be a URL for migrations, like postgresql://user:password@host:5432/name")
    query = parse_qsl(parts.query, keep_blank_values=True)
    host = parts.hostname or dict(query).get("host", "")
    loopback = host == "" or host.startswith(("/", "127.")) or host in ("localhost", "::1")
    if loopback and "sslmode" not in dict(query):
        query.append(("sslmode", "disable"))
    return urlunsplit(parts._replace(query=urlencode(query)))


def _shown(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def main() -> int:
    """The command: exit code 0 when done, 1 when it failed, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m local.migrate", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--down", action="store_true", help="roll the newest migration back")
    which.add_argument("--status", action="store_true", help="list migrations, applied or not")
    arguments = parser.parse_args()
    file = os.environ.get("DATABASE_URL_FILE")
    try:
        url = read_secret_file("DATABASE_URL_FILE", file) if file else os.environ.get("DATABASE_URL")
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not url:
        print(
            "DATABASE_URL is not set: name the database to migrate, like postgresql://user@host:5432/name, or the file "
            "that has it in DATABASE_URL_FILE",
            file=sys.stderr,
        )
        return 2
    try:
        if not arguments.status:
            migrate(url, down=arguments.down)
        print(status(url))
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
