"""`python -m bench`: how fast the consumer is on this machine, at what cost, and how fresh its rollups are.

Three measurements on a real Kafka and a real PostgreSQL (see `local.services`): throughput from a topic full of events,
in rounds with reading the same topic and nothing else; latency at a steady rate; an idle consumer. A consumer's
settings are taken from the environment, so that others can be tried: `KAFKA_FETCH_WAIT_MAX_MS=10 make bench`.
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from bench import consume_only, latency, report, throughput
from bench.command_line import interrupt, positive, say, whole
from bench.machine import facts
from bench.programs import BenchError
from bench.results import Idle, Result, Round, Steady, medians
from bench.workload import PARTITIONS, Ground, ground
from consumer.errors import RollupError
from consumer.settings import Settings
from local.processes import LocalError
from local.services import services

INTERRUPTED = 130


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line; wrong use ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--events", type=positive, default=1_000_000, help="events in the topic (default: %(default)s)")
    add("--rounds", type=whole, default=3, help="of consume-only and consumer; 0: none (default: %(default)s)")
    add("--rotate", action="store_true", help="in every other round, run the consumer first")
    add("--verify", action="store_true", help="also compare all rollup rows with the raw events")
    add("--rate", type=positive, default=5_000, help="events a second of the steady run (default: %(default)s)")
    add("--seconds", type=whole, default=20, help="of the steady run; 0: none (default: %(default)s)")
    add("--warm-up", type=whole, default=15, help="seconds of it before, not measured (default: %(default)s)")
    add("--idle-seconds", type=whole, default=10, help="to watch an idle consumer; 0: none (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all numbers to FILE too")
    return parser.parse_args(words)


def run(wanted: argparse.Namespace) -> Result:
    """Start services, measure what is wanted, stop them. Raises `BenchError`, `LocalError`, `RollupError`."""
    with services() as running, ground(running, wanted.events) as place:
        machine, settings = facts(place), _changed_settings(place)
        rounds = list(_rounds(place, wanted)) if wanted.rounds else []
        correctness = throughput.check(place, compare=wanted.verify) if rounds else None
        steady, idle = _steady_and_idle(place, wanted)
        return Result(machine, settings, _workload(place), rounds, medians(rounds), correctness, steady, idle)


def _rounds(place: Ground, wanted: argparse.Namespace) -> list[Round]:
    say(f"producing {wanted.events:,} events")
    place.fill(raw=wanted.verify)
    # The broker's code and the page cache are warm for the consumer; they have to be for what it is compared with.
    consume_only.measure(place, "warm-up")
    found = []
    for number in range(1, wanted.rounds + 1):
        if wanted.rotate and number % 2 == 0:
            whole = throughput.measure(place, str(number))
            alone = consume_only.measure(place, str(number))
        else:
            alone = consume_only.measure(place, str(number))
            whole = throughput.measure(place, str(number))
        found.append(Round(alone, whole, whole.per_second / alone.per_second))
        say(
            f"round {number}: {whole.per_second:,.0f} events/s end to end,"
            f" {alone.per_second:,.0f} consume-only, ratio {found[-1].ratio:.3f}"
        )
    return found


def _steady_and_idle(place: Ground, wanted: argparse.Namespace) -> tuple[Steady | None, Idle | None]:
    steady: Steady | None = None
    idle: Idle | None = None
    if wanted.seconds or wanted.idle_seconds:
        with latency.caught_up_consumer(place) as running:
            if wanted.seconds:
                say(f"{wanted.rate:,} events/s for {wanted.seconds} s")
                steady = latency.measure_steady(place, running, wanted.rate, wanted.warm_up, wanted.seconds)
            if wanted.idle_seconds:
                say(f"idle for {wanted.idle_seconds} s")
                idle = latency.measure_idle(running, wanted.idle_seconds)
    return steady, idle


def _changed_settings(place: Ground) -> dict[str, str | int]:
    """What the caller's environment changes about the consumer, but for where it runs."""
    environment = place.environment(place.topic, "bench")
    kept = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPICS", "KAFKA_GROUP_ID")
    usual = Settings.load({name: environment[name] for name in kept}).describe()
    return {name: v for name, v in Settings.load(environment).describe().items() if usual.get(name) != v}


def _workload(place: Ground) -> dict[str, str | int | float]:
    w = place.workload
    return {
        "events": w.events,
        "message_bytes": place.message_bytes[0] if place.message_bytes else 0,
        "hours": w.hours,
        "accounts": w.accounts,
        "agents_per_account": w.agents,
        "inboxes_per_account": w.inboxes,
        "zones": ", ".join(w.zones),
        "partitions": PARTITIONS,
        "compression": "lz4",
    }


def main(words: list[str] | None = None) -> int:
    """Exit codes: 0 done and correct, 1 failed or not correct, 2 wrong use, 130 interrupted."""
    wanted = arguments(words)
    for number in (signal.SIGINT, signal.SIGTERM):  # both: a shell's background jobs ignore Ctrl-C unless told
        signal.signal(number, interrupt)
    try:
        result = run(wanted)
    except KeyboardInterrupt:
        say("interrupted: everything that was started has been stopped")
        return INTERRUPTED
    except RollupError as error:  # a setting that is tried is wrong, say
        say(str(error))
        return error.exit_code
    except (BenchError, LocalError) as error:
        say(str(error))
        return 1
    report.show(result, Console())
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(report.as_json(result))
    return 0 if result.correctness is None or result.correctness.good else 1


if __name__ == "__main__":
    sys.exit(main())
