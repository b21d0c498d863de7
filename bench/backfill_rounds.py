"""Rounds of the backfill's benchmark: every way over all account-days, each from empty tables, one after the other."""

from bench.backfill_ground import Field
from bench.backfill_reference import SUM_TOLERANCE_SECONDS
from bench.backfill_results import Answer, Run
from bench.backfill_variant import WAYS
from bench.programs import answer_of
from bench.usage import family_seconds
from local import proof

LONGEST_SECONDS = 1800.0


def round_of(field: Field, number: int) -> list[Run]:
    """One round; the ways in turn begin it, so that none is always the first. Raises `BenchError`."""
    names = list(WAYS)
    first = (number - 1) % len(names)
    found = {way: measure(field, way, number) for way in names[first:] + names[:first]}
    return [found[way] for way in names]


def measure(field: Field, way: str, number: int) -> Run:
    """Run one way in a process of its own, and compare what it left with the raw events."""
    ground = field.ground
    ground.clear()
    environment = ground.environment("", "bench-backfill")
    words = (way, "1", str(field.accounts), *(day.isoformat() for day in field.days))
    before = _postgres_seconds(field)
    log = ground.folder / f"{way}-{number}.log"
    answer = Answer(
        **answer_of("bench.backfill_variant", *words, log=log, environment=environment, seconds=LONGEST_SECONDS)
    )
    after = _postgres_seconds(field)
    row = ground.conn.execute("SELECT count(*) FROM reporting_events_rollups").fetchone()
    return Run(
        way=way,
        account_days=answer.account_days,
        seconds=answer.seconds,
        account_days_per_second=answer.account_days / answer.seconds,
        raw_events_per_second=field.events / answer.seconds,
        client_cpu_seconds=answer.cpu_seconds,
        postgres_cpu_seconds=None if before is None or after is None else after - before,
        peak_memory_bytes=answer.peak_memory_bytes,
        rows=int(row[0]) if row else 0,
        differences=_differences(field, exact=way != "original"),
    )


def _differences(field: Field, *, exact: bool) -> list[str]:
    """Rollup rows that are not what the raw events give, found by statements of their own (`local.proof`)."""
    conn = field.ground.conn
    if not exact:
        # The original leaves no days behind, which say what to compare.
        conn.execute(
            "INSERT INTO rollup_days (account_id, date, timezone) SELECT account_id, d, reporting_timezone"
            " FROM account_settings CROSS JOIN unnest(%s::date[]) AS d WHERE account_id <= %s",
            (list(field.days), field.accounts),
        )
    found = proof.differences(conn, limit=20 if exact else 1_000_000)
    return [str(each) for each in found if exact or not _close(each)]


def _close(found: proof.Difference) -> bool:
    """Whether all that differs is how floating-point numbers add up."""
    pairs = ((found.raw_sum, found.rollup_sum), (found.raw_business, found.rollup_business))
    return found.raw_count == found.rollup_count and all(
        raw is not None and rollup is not None and abs(raw - rollup) <= SUM_TOLERANCE_SECONDS for raw, rollup in pairs
    )


def _postgres_seconds(field: Field) -> float | None:
    postgres = field.ground.services.postgres
    if postgres is None or postgres.pid is None:
        return None
    return family_seconds(postgres.pid, {field.ground.conn.info.backend_pid})
