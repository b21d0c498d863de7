"""The processes that are measured. Each ends with this one, however this one ends (`local.processes`)."""

import http.client
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from consumer.logs import Event
from consumer.metric_catalogue import PREFIX
from local.processes import Process, tail

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class BenchError(Exception):
    """The run cannot go on; the message says what happened, and has the end of the log."""


@contextmanager
def python(module: str, *words: str | Path, log: Path, environment: Mapping[str, str]) -> Iterator[Process]:
    """`python -m module words` while the block runs, its output in `log`."""
    command = [sys.executable, "-m", module, *words]
    process = Process(command, folder=ROOT, log=log, environment=environment)
    try:
        yield process
    finally:
        if process.running:
            process.stop(timeout=STOP_SECONDS)


def answer_of(module: str, *words: str | Path, log: Path, environment: Mapping[str, str], seconds: float) -> Any:
    """Run `python -m module words` to its end and return the JSON of its last line.

    Raises:
        BenchError: it failed, or took longer than `seconds`.
    """
    with python(module, *words, log=log, environment=environment) as process:
        ended = process.wait(seconds)
    lines = log.read_text().splitlines() if ended else []
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        how = "gave no answer" if ended else f"did not end within {seconds:.0f} s"
        raise BenchError(f"python -m {module} {how}. The end of its output:\n{tail(log)}") from None


class RunningConsumer:
    """A consumer process that is measured from outside: by its log, its metrics and the operating system."""

    def __init__(self, process: Process, log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raise `BenchError` when the consumer has ended."""
        if not self._process.running:
            raise BenchError(f"the consumer ended by itself. The end of its log:\n{tail(self._log)}")

    def wait_for(self, event: Event) -> dict[str, Any]:
        """The first log line with this word, as soon as it is there. Raises `BenchError` after a minute."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for line in self._lines():
                if line.get("event") == event:
                    return line
            self.check()
            time.sleep(0.005)
        raise BenchError(f"no log line {event} within {START_SECONDS:.0f} s. The end of the log:\n{tail(self._log)}")

    def assigned_at(self) -> float:
        """When the consumer logged that it has partitions and where they start, by our monotonic clock; waits for
        it. The first message is fetched right after that."""
        logged = datetime.fromisoformat(self.wait_for(Event.PARTITIONS_ASSIGNED)["timestamp"]).timestamp()
        return time.monotonic() - (time.time() - logged)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """A scrape: (name without prefix, label values in the order of their names' alphabet) -> value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.wait_for(Event.HTTP_LISTENING)["port"], timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        return {
            (sample.name.removeprefix(PREFIX), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def stop(self) -> None:
        """SIGTERM. Raises `BenchError` when the end is not an orderly one."""
        self.check()
        self._process.stop(timeout=STOP_SECONDS)
        if not any(line.get("event") == Event.STOPPED for line in self._lines()):
            raise BenchError(f"the consumer did not end in good order. The end of its log:\n{tail(self._log)}")

    def _lines(self) -> list[dict[str, Any]]:
        # A line still being written has no end yet; what is not JSON (a traceback) is shown when it matters.
        lines = self._log.read_text(errors="replace").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]


@contextmanager
def consumer(log: Path, environment: Mapping[str, str]) -> Iterator[RunningConsumer]:
    """A consumer process while the block runs. Call `stop` at the end of the block to check for an orderly end."""
    own = {"LOG_LEVEL": "info", "LOG_FORMAT": "json", "METRICS_PORT": "0", "METRICS_ADDRESS": "127.0.0.1"}
    with python("consumer", log=log, environment={**environment, **own}) as process:
        yield RunningConsumer(process, log)
