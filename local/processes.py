"""Programs that end when this Python process ends, however it ends, and ports for them.

Between us and each program stands a watcher: this very file run as a script. It is the program's parent and holds
one end of a pipe whose other end is held by nobody but us. The kernel closes our end when we die, even of
SIGKILL; the watcher reads that as "stop". (Asking the kernel to signal the program on our death instead would
follow the thread that forked, not the process.) Should the watcher itself be killed, the kernel signals the
program on Linux: the watcher has one thread, so there it is reliable.

As a script it runs without site-packages: nothing but the standard library may be imported here.
"""

import contextlib
import ctypes
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
GRACE_SECONDS = 15.0
"""How long a program may take over its stop signal once we are gone; then it gets SIGKILL."""


class LocalError(Exception):
    """Something of the local stack does not work; the message says what, where and what to do."""


class Process:
    """A running program, with a watcher that stops it when this Python process ends.

    Raises `LocalError` when the program cannot be started. `stop_signal` is what makes it end in good order.
    Its output is appended to `log`. With `account` (uid, gid) it runs as somebody else, which needs root.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        account: tuple[int, int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.stop_signal = stop_signal
        order = {
            "command": [str(word) for word in command],
            "folder": str(folder),
            "log": str(log),
            "stop_signal": int(stop_signal),
            "account": account,
            "environment": None if environment is None else dict(environment),
        }
        # A session of its own: Ctrl-C on our terminal is for us, and we stop the program in our own order.
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._watcher.stdin and self._watcher.stdout  # noqa: S101 - for the type checker: both are pipes
        self._orders, answers = self._watcher.stdin, self._watcher.stdout
        with answers:
            self._write(json.dumps(order))
            answer = json.loads(answers.readline() or '{"error": "its watcher ended at once"}')
        if "error" in answer:
            self.wait(GRACE_SECONDS)
            raise LocalError(f"cannot start {command[0]}: {answer['error']}")
        self.pid: int = answer["pid"]

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet. Does not block."""
        return self._watcher.poll() is None

    def send(self, signum: signal.Signals) -> None:
        """Send the program a signal; nothing happens when it has ended."""
        self._write(str(int(signum)))

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the program's end; whether it has ended."""
        try:
            self._watcher.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        with contextlib.suppress(BrokenPipeError):  # the watcher went before it read our last order
            self._orders.close()
        return True

    def stop(self, signum: signal.Signals | None = None, timeout: float = 30.0) -> None:
        """Send `signum` (default: the stop signal) and wait; SIGKILL after `timeout` seconds."""
        self.send(signum or self.stop_signal)
        if not self.wait(timeout):
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it has ended."""
        self.send(signal.SIGKILL)
        self.wait(GRACE_SECONDS)

    def _write(self, line: str) -> None:
        try:
            self._orders.write(line.encode() + b"\n")
            self._orders.flush()
        except (BrokenPipeError, ValueError):  # the watcher has gone, or we have closed our end: so has the program
            return


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now; somebody else may still take it first.

    It lies below the range from which the kernel takes ports for outgoing connections. Inside it, a client that
    keeps trying a stopped server's port can be given that very port, connect to itself, and so keep the server
    from coming back.
    """
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 32768
    candidates = range(min(10_000, first), first)
    for port in random.SystemRandom().sample(candidates, min(100, len(candidates))):
        if port_is_free(port):
            return port
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on this TCP port of 127.0.0.1. Unlike `port_is_free`, it never occupies the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of 127.0.0.1 now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file, for an error message; says so when there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def _die_with(watcher: int, signum: int) -> Callable[[], None]:
    """What a forked child does before it becomes the program: ask the kernel to end it with its watcher."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signum)
        if os.getppid() != watcher:  # it died before we could ask
            os._exit(1)

    return ask


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    uid, gid = order["account"] or (None, None)
    with Path(order["log"]).open("ab") as log:
        return subprocess.Popen(
            order["command"],
            cwd=order["folder"],
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            # Runs after the change of user, which would clear the request; one thread, so no lock can be held.
            preexec_fn=_die_with(os.getpid(), order["stop_signal"]),  # noqa: PLW1509
        )


def _watch() -> int:
    """The watcher: start what the first line of stdin orders, pass on signals, stop it when stdin ends."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)  # the wakeup pipe brings it to the loop below
    orders = b""
    while b"\n" not in orders:
        chunk = os.read(0, 65536)
        if not chunk:
            return 1
        orders += chunk
    first, orders = orders.split(b"\n", 1)
    order = json.loads(first)
    try:
        program = _start(order)
    except (OSError, subprocess.SubprocessError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"pid": program.pid}), flush=True)
    while program.poll() is None:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready and signal.SIGTERM in os.read(woken, 4096):
            break
        if 0 in ready:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, orders = (orders + chunk).split(b"\n")
            for line in lines:
                program.send_signal(int(line))
    else:
        return program.returncode & 0xFF
    program.send_signal(order["stop_signal"])
    try:
        program.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
    return program.returncode & 0xFF


if __name__ == "__main__":
    sys.exit(_watch())
