"""The demo's findings: what was counted live, the result where people would look, and the proof."""

from typing import Any

import psycopg

from local import proof
from local.demo_screen import Screen
from local.demo_stage import ConsumerProcess
from local.events import Expected

Connection = psycopg.Connection[Any]

LIVE = """
SELECT
    (SELECT count(*) FROM reporting_events_rollups JOIN rollup_days USING (account_id, date) WHERE NOT closed),
    (SELECT count(*) FROM late_events)
"""
BUSIEST = """
SELECT d.account_id, s.reporting_timezone FROM rollup_days AS d JOIN account_settings AS s USING (account_id)
GROUP BY 1, 2 ORDER BY sum(d.events) DESC LIMIT 1
"""
WEEK = """
WITH total AS (
    SELECT date, metric, count, sum_value / nullif(count, 0) AS mean
    FROM reporting_events_rollups WHERE account_id = %(account)s AND dimension_type = 'account'
)
SELECT
    c.date::text, c.state, c.events,
    max(t.count) FILTER (WHERE t.metric = 'resolutions_count'),
    (max(t.mean) FILTER (WHERE t.metric = 'resolution_time') / 3600)::float8,
    (max(t.mean) FILTER (WHERE t.metric = 'first_response') / 60)::float8,
    max(t.count) FILTER (WHERE t.metric = 'reply_time'),
    max(t.count) FILTER (WHERE t.metric = 'bot_resolutions_count'),
    max(t.count) FILTER (WHERE t.metric = 'bot_handoffs_count')
FROM rollup_coverage AS c LEFT JOIN total AS t ON t.date = c.date
WHERE c.account_id = %(account)s AND c.events > 0
GROUP BY c.date, c.state, c.events
ORDER BY c.date DESC LIMIT 7
"""
WEEK_COLUMNS = (
    *("date", "state", "events", "resolved", "hours to resolve", "minutes to answer"),
    *("replies", "by bot", "handed off"),
)
DEAD = """
SELECT partition, "offset", error_class, reason FROM (
    SELECT *, row_number() OVER (PARTITION BY error_class, left(reason, 20) ORDER BY id) AS nth FROM dead_letters
) AS letter WHERE nth = 1 ORDER BY id LIMIT 6
"""
SHOWN_METRICS = ("events_total{", "transactions_total", "rebalances_total{", "consumer_lag_seconds{")
OUTCOMES = ("messages", "counted", "duplicates", "late", "skipped", "dead")


def look_at_live_days(screen: Screen, conn: Connection) -> None:
    """Compare what was counted live with the raw events, before any rebuild could make them equal."""
    screen.step(
        "Before anything is rebuilt: the last three days were counted live; older ones never are, and their",
        "late events wait for a rebuild.",
    )
    closed = {(a, d) for a, d in conn.execute("SELECT account_id, date FROM rollup_days WHERE closed").fetchall()}
    wrong = [d for d in proof.differences(conn, limit=1_000_000) if (d.account_id, d.date) not in closed]
    rows, late = conn.execute(LIVE).fetchall()[0]
    if wrong:
        screen.bad(f"{len(wrong)} rows counted live differ from the raw events; the first: {wrong[0]}")
    else:
        screen.good(f"rows counted live: {rows:,}, all equal to the raw events already")
    screen.say(f"{len(closed)} older days have {late:,} late events waiting.")


def show(screen: Screen, conn: Connection, member: ConsumerProcess) -> None:
    """The result, where people would look."""
    screen.step("What a report reads: one account's last days, in its own time zone; a few rows instead of all events.")
    account, zone = conn.execute(BUSIEST).fetchall()[0]
    week = conn.execute(WEEK, {"account": account}).fetchall()
    screen.table(f"Account {account}, {zone} (the closed days only have late events here)", WEEK_COLUMNS, week)
    dead = conn.execute("SELECT error_class, count(*) FROM dead_letters GROUP BY 1 ORDER BY 2 DESC, 1").fetchall()
    title = "Dead letters, one of each: " + ", ".join(f"{count} {kind}" for kind, count in dead)
    screen.table(title, ("partition", "offset", "class", "why it cannot be an event"), conn.execute(DEAD).fetchall())
    screen.step(f"Metrics are at {member.metrics_url}; some lines of {member.name}:")
    wanted = tuple(f"reporting_rollup_{name}" for name in SHOWN_METRICS)
    screen.copy([line for line in member.metrics() if line.startswith(wanted)])


def prove(screen: Screen, conn: Connection, expected: Expected) -> bool:
    """Whether the rollup equals the raw events, and every message has one outcome; says what does not hold."""
    screen.step("The proof: every row of the rollup, recomputed from the raw events by a statement of its own.")
    wrong = [str(difference) for difference in proof.differences(conn)]
    if not wrong:
        screen.good(f"rollup equals raw: {proof.rows(conn):,} rows, exact")
    stale, events = conn.execute("SELECT count(stale_since), sum(events)::bigint FROM rollup_days").fetchall()[0]
    screen.say(
        f"{stale} days are stale; {events:,} different events are in, of {expected.events:,} that feed a metric."
    )
    if stale or events != expected.events:
        wrong.append("these two numbers should be 0 and the same")
    sheet = proof.balance(conn)
    rows: list[list[object]] = [[str(row.partition), *(getattr(row, name) for name in OUTCOMES)] for row in sheet]
    total = {name: sum(int(getattr(row, name)) for row in sheet) for name in OUTCOMES}
    columns = ("partition", *OUTCOMES)
    screen.table("The balance sheet: every message has one outcome", columns, [*rows, ["all", *total.values()]])
    screen.say("messages = counted + duplicates + late + skipped + dead, in every partition")
    wrong += [f"partition {row.partition} does not add up" for row in sheet if not row.adds_up]
    if (total["messages"], total["skipped"], total["dead"]) != (expected.messages, expected.skipped, expected.dead):
        wrong.append(f"that is not what was sent: {expected}")
    for line in wrong:
        screen.bad(line)
    return not wrong
