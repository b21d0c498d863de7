"""`python -m bench.soak`: the consumer at full speed for long, then sent more than it can count.

Soak: a producer stays a little ahead of the consumer, so that it never waits. Overload: the producer sends as fast as
it can, then stops, and the consumer catches up. It is watched from outside all the time: nothing may grow that does
not have to, and every total must be exact at the end. Kafka and PostgreSQL are real (see `local.services`); an
overload of three minutes may need 10 GB of disk. A consumer's settings are taken from the environment.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

import numpy as np
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]
from rich.console import Console

from bench import soak_exactness, soak_report
from bench.command_line import interrupt, positive, say
from bench.machine import facts
from bench.programs import BenchError, consumer, python
from bench.soak_results import Soak
from bench.soak_sampling import Sampler, bloat
from bench.soak_traffic import pool
from bench.soak_verdict import judge
from bench.workload import Ground, ground
from consumer.errors import RollupError
from local.processes import LocalError, Process, tail
from local.services import services

INTERRUPTED = 130
GROUP = "soak"
FINISH_SECONDS = 180.0
"""For the producer's last round and its flush."""

KAFKA = {"log.retention.check.interval.ms": "10000"}
"""Kafka looks for segments to delete every five minutes, in which it would get gigabytes."""

BOUNDED = {"segment.bytes": "67108864", "retention.bytes": "268435456", "file.delete.delay.ms": "1000"}
"""Of each partition a few segments are kept: many times the backlog, so that only what was read long ago goes."""

UNBOUNDED = {"retention.bytes": "-1"}
"""For the overload: Kafka must not delete what was not read."""


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line; wrong use ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=_minutes, default=20.0, help="of the soak (default: %(default)s)")
    add("--overload-minutes", type=_minutes, default=3.0, help="of the overload; 0: none (default: %(default)s)")
    add("--backlog", type=positive, default=500_000, help="messages to stay ahead (default: %(default)s)")
    add("--pool", type=positive, default=100_000, help="different events (default: %(default)s)")
    add("--every", type=float, default=1.0, help="seconds between two samples (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all numbers to FILE too")
    return parser.parse_args(words)


def run(wanted: argparse.Namespace) -> tuple[dict[str, str | int | float], Soak]:
    """Start services, soak, overload, stop them. Raises `BenchError`, `LocalError`, `RollupError`."""
    with services(kafka_properties=KAFKA) as running, ground(running, wanted.pool) as place:
        machine = facts(place)
        _configure(place, BOUNDED)
        file, log = place.folder / "marks.npz", place.folder / "producer.log"
        environment = place.environment(place.topic, GROUP)
        words = (place.topic, str(place.workload.end_us), str(wanted.pool), str(wanted.backlog), file)
        with (
            consumer(place.folder / "consumer.log", environment) as counting,
            python("bench.soak_producer", *words, log=log, environment=environment) as producer,
        ):
            counting.assigned_at()
            sampler = Sampler(place, counting, wanted.every)
            say(f"soaking for {wanted.minutes:g} minutes")
            sampler.watch("soak", wanted.minutes * 60)
            _running(producer, log)
            if wanted.overload_minutes:
                say(f"overload for {wanted.overload_minutes:g} minutes, from a backlog of {sampler.backlog():,}")
                _configure(place, UNBOUNDED)
                producer.send(signal.SIGUSR1)
                sampler.watch("overload", wanted.overload_minutes * 60)
                _running(producer, log)
            producer.send(signal.SIGTERM)
            if not producer.wait(FINISH_SECONDS):
                raise BenchError(f"the producer did not end within {FINISH_SECONDS:.0f} s")
            sent = _answer(log)
            say(f"sent {sent['messages']:,}; catching up from a backlog of {sampler.backlog():,}")
            sampler.watch_until_committed()
            counting.stop()
        in_topic = sampler.in_topic()
        say(f"comparing {in_topic:,} messages with the tables")
        exactness = soak_exactness.check(place, pool(place.workload), sent["rounds"], sent["messages"], in_topic)
        with np.load(file) as marks:
            arrivals = sampler.arrivals(marks["partition"], marks["offset"], marks["produced_ns"])
        return machine, Soak(sampler.samples, sampler.tables, arrivals, bloat(place), exactness)


def _minutes(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{number:g} is no time to wait")
    return number


def _configure(place: Ground, settings: dict[str, str]) -> None:
    """Change the topic's settings; Kafka follows within seconds."""
    admin = AdminClient({"bootstrap.servers": place.services.kafka_bootstrap, "log_level": 0})
    entries = [ConfigEntry(name, v, incremental_operation=AlterConfigOpType.SET) for name, v in settings.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, place.topic, incremental_configs=entries)
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(30)


def _running(producer: Process, log: Path) -> None:
    if not producer.running:
        raise BenchError(f"the producer ended by itself. The end of its output:\n{tail(log)}")


def _answer(log: Path) -> dict[str, int]:
    lines = log.read_text().splitlines()
    try:
        found: dict[str, int] = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise BenchError(f"the producer failed. The end of its output:\n{tail(log)}") from None
    return found


def main(words: list[str] | None = None) -> int:
    """Exit codes: 0 passed, 1 failed, 2 wrong use, 130 interrupted."""
    wanted = arguments(words)
    for number in (signal.SIGINT, signal.SIGTERM):  # both: a shell's background jobs ignore Ctrl-C unless told
        signal.signal(number, interrupt)
    try:
        machine, soak = run(wanted)
    except KeyboardInterrupt:
        say("interrupted: everything that was started has been stopped")
        return INTERRUPTED
    except RollupError as error:  # a setting that is tried is wrong, say
        say(str(error))
        return error.exit_code
    except (BenchError, LocalError) as error:
        say(str(error))
        return 1
    checks = judge(soak, overloaded=bool(wanted.overload_minutes))
    soak_report.show(machine, soak, checks, Console())
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(soak_report.as_json(machine, soak, checks))
    return 0 if soak_report.passed(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
