"""What a local Kafka and a local PostgreSQL have in common: a port found once and kept, starting, waiting, stopping."""

import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from local.processes import LocalError, Process, free_port, port_is_free, tail

START_SECONDS = 60.0  # crash recovery of a large development database included
STOP_SECONDS = 60.0
ATTEMPTS = 5
"""Ports tried where none was asked for: between our look and the server's, somebody else may take one."""


class Server(ABC):
    """A server on 127.0.0.1 with its data in `folder`; a context manager too.

    Without `port` a free one is chosen on the first start and kept from then on.
    """

    title: ClassVar[str]
    """Its name in error messages."""
    abandon_signal: ClassVar[signal.Signals]
    """Ends a process that did not come up, whatever becomes of its data."""

    def __init__(self, folder: Path, port: int | None, logs: Sequence[str]) -> None:
        self.folder = folder.absolute()
        self._logs = [self.folder / name for name in logs]
        self._port = port
        self._process: Process | None = None

    @property
    def port(self) -> int:
        """The TCP port; `LocalError` before the first start when none was given."""
        if self._port is None:
            raise LocalError(f"this {self.title} has no port yet: call start() first")
        return self._port

    @property
    def pid(self) -> int | None:
        """The id of the server's (first) process while it runs."""
        return self._process.pid if self._process and self._process.running else None

    def start(self) -> None:
        """Start the server and wait until it answers; after a kill it recovers first. Raises `LocalError`.

        Nothing happens when it runs already. It takes one to three seconds, and up to a minute the very first time.
        """
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._prepare()
        attempts = ATTEMPTS if self._port is None else 1
        for attempt in range(1, attempts + 1):
            port = self._port or free_port()
            try:
                self._process = self._run(port)
            except LocalError:
                if attempt == attempts or port_is_free(port):
                    raise
                continue  # somebody took the port
            self._port = port
            return

    @abstractmethod
    def stop(self) -> None:
        """Shut down in good order."""

    def kill(self) -> None:
        """SIGKILL; the next start recovers."""
        if self._process:
            self._process.kill()
        self._process = None

    def remove(self) -> None:
        """End the server, without caring for its data, and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self) -> None:
        """What comes before the first attempt to start: binaries, configuration that knows no port."""

    @abstractmethod
    def _launch(self, port: int) -> Process:
        """Start the process; whether it works, `_fault` will tell."""

    @abstractmethod
    def _fault(self, port: int) -> object:
        """Why the server cannot be used yet; None when it answers, and it is ours and nobody else's."""

    def _stop(self, signum: signal.Signals) -> None:
        if self._process:
            self._process.stop(signum, STOP_SECONDS)
        self._process = None

    def _run(self, port: int) -> Process:
        process = self._launch(port)
        try:
            self._wait_until_ready(process, port)
        except BaseException:
            process.stop(self.abandon_signal)
            raise
        return process

    def _wait_until_ready(self, process: Process, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        fault: object = "no answer"
        while process.running and time.monotonic() < deadline:
            fault = self._fault(port)
            if fault is None:
                return
            process.wait(0.02)
        ends = "\nand ".join(f"the end of {log}:\n{tail(log)}" for log in self._logs)
        raise LocalError(f"{self.title} in {self.folder} did not start on port {port} ({fault}); {ends}")
