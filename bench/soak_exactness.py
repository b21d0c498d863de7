"""Whether the tables say, to the last digit, what the producer sent."""

from decimal import Decimal

from bench.soak_results import Exactness
from bench.soak_traffic import Key, Total, expected_rows, outcomes
from bench.workload import Ground
from local import proof
from local.events import Sample

TOLD = 5
"""Differences that are told one by one."""

ROWS = """
    SELECT account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours
    FROM reporting_events_rollups
"""


def check(ground: Ground, sample: Sample, rounds: int, sent: int, in_topic: int) -> Exactness:
    """Compare everything that the producer's rounds imply. Nobody may count meanwhile."""
    must, sheet = outcomes(sample).times(rounds), proof.balance(ground.conn)
    letters = ground.conn.execute("SELECT count(*) FROM dead_letters").fetchall()[0][0]
    expected = {name: getattr(must, name) for name in ("messages", "counted", "duplicates", "skipped", "dead")}
    found = {name: sum(getattr(row, name) for row in sheet) for name in (*expected, "late")}
    wanted, got = expected_rows(sample, rounds), _rows(ground)
    different = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
    return Exactness(
        rounds=rounds,
        sent=sent,
        in_topic=in_topic,
        expected={**expected, "late": 0, "letters": must.dead},
        found={**found, "letters": letters},
        balanced=all(row.adds_up for row in sheet),
        rows=len(wanted.keys() | got.keys()),
        differences=len(different),
        told=[f"{key}: expected {wanted.get(key)}, the rollup has {got.get(key)}" for key in different[:TOLD]],
    )


def _rows(ground: Ground) -> dict[Key, Total]:
    return {
        Key(*key): Total(count, _microseconds(total), _microseconds(business))
        for *key, count, total, business in ground.conn.execute(ROWS)
    }


def _microseconds(seconds: Decimal) -> int:
    """Exact, as there are six decimals. Raises ValueError for more: nothing may be rounded away here."""
    found = int(seconds.scaleb(6))
    if found != seconds.scaleb(6):
        raise ValueError(f"{seconds} s has parts of a microsecond")
    return found
