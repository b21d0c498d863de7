"""`python -m bench.backfill`: how fast days are rebuilt from raw events, at what cost, and who waits for it.

Two measurements on a real PostgreSQL (see `local.services`). Rounds: the same account-days rebuilt by the original
algorithm, by this implementation one account-day at a time, by all accounts of a day together, and so with two jobs.
Then one account-day with very many events, closed and open, while consumers go on.
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from bench import backfill_large, backfill_report
from bench.backfill_ground import Field, add_large_day, field
from bench.backfill_results import Large, Result, Run, summary
from bench.backfill_rounds import round_of
from bench.command_line import interrupt, positive, say, whole
from bench.machine import facts
from bench.programs import BenchError
from consumer.errors import RollupError
from local.processes import LocalError
from local.services import services

INTERRUPTED = 130
CLOSED_WINDOW, OPEN_WINDOW = 3, 10
"""OPEN_DAYS with which the large day is closed, and open."""
ABOUT_KAFKA = ("librdkafka", "confluent_kafka", "kafka", "polars")


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line; wrong use ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.backfill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--events", type=positive, default=2_000_000, help="raw events (default: %(default)s)")
    add("--accounts", type=positive, default=500, help="that they belong to (default: %(default)s)")
    add("--rounds", type=whole, default=3, help="of all four ways; 0: none (default: %(default)s)")
    add("--large", type=whole, default=1_000_000, help="events of the large day; 0: none (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all numbers to FILE too")
    return parser.parse_args(words)


def run(wanted: argparse.Namespace) -> Result:
    """Start PostgreSQL, measure what is wanted, stop it. Raises `BenchError`, `LocalError`, `RollupError`."""
    with services(kafka=False) as running:
        say(f"loading {wanted.events:,} raw events")
        with field(running, wanted.events, wanted.accounts) as place:
            machine = {name: value for name, value in facts(place.ground).items() if name not in ABOUT_KAFKA}
            rounds = [_round(place, number) for number in range(1, wanted.rounds + 1)]
            large = list(_large(place, wanted.large)) if wanted.large else []
            return Result(machine, _workload(place), rounds, summary(rounds), large)


def _round(place: Field, number: int) -> list[Run]:
    found = round_of(place, number)
    rates = ", ".join(f"{run.way} {run.account_days_per_second:,.1f}" for run in found)
    say(f"round {number}, account-days/s: {rates}")
    return found


def _large(place: Field, events: int) -> list[Large]:
    say(f"loading a day of {events:,} raw events")
    day = add_large_day(place, events)
    found = []
    for open_days in (CLOSED_WINDOW, OPEN_WINDOW):
        each = backfill_large.measure(place, day, events, open_days)
        say(f"{'open' if each.open else 'closed'}: {each.seconds:.1f} s")
        found.append(each)
    return found


def _workload(place: Field) -> dict[str, str | int | float]:
    row = place.ground.conn.execute(
        "SELECT pg_table_size('reporting_events') / 1000000, pg_indexes_size('reporting_events') / 1000000"
    ).fetchone()
    return {
        "raw_events": place.events,
        "accounts": place.accounts,
        "days": ", ".join(map(str, place.days)),
        "zones": ", ".join(place.ground.workload.zones),
        "table_and_indexes_mb": " + ".join(map(str, row or ())),
        "load_seconds": round(place.load_seconds, 1),
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
    backfill_report.show(result, Console())
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(backfill_report.as_json(result))
    return 0 if result.right else 1


if __name__ == "__main__":
    sys.exit(main())
