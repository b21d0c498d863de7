-- What `python -m backfill explain` asks, in one snapshot. Loaded by explain_day.py, explain_event.py and letters.py.

-- name: account
SELECT reporting_timezone, reporting_events_rollup, rollup_since FROM account_settings WHERE account_id = %(account)s;

-- name: day
SELECT
    c.state, c.as_of, d.timezone, d.closed, d.events, d.stale_since, d.settles_at, d.rebuilt_at, d.audited_at, d.drift,
    d.registry
FROM rollup_coverage AS c
JOIN rollup_days AS d USING (account_id, date)
WHERE account_id = %(account)s AND date = %(date)s;

-- name: raw_time_type
-- Whether the application keeps created_at as `timestamp` (UTC) or `timestamptz`; no row without the table.
SELECT format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = to_regclass('reporting_events') AND attname = 'created_at' AND NOT attisdropped;

-- name: raw_by_name
-- The day's raw events of every name, known or not, and the first few ids of each.
SELECT g.name, g.events, g.invalid, g.first, g.last, s.ids
FROM (
    SELECT
        r.name, count(*) AS events, min(r.created_at) AS first, max(r.created_at) AS last,
        count(*) FILTER (
            WHERE NOT (coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true))
        ) AS invalid
    FROM reporting_events AS r
    WHERE r.account_id = %(account)s AND r.created_at >= %(start)s AND r.created_at < %(end)s
    GROUP BY r.name
) AS g
CROSS JOIN LATERAL (
    SELECT array_agg(f.id ORDER BY f.created_at, f.id) AS ids
    FROM (
        SELECT r.id, r.created_at FROM reporting_events AS r
        WHERE r.account_id = %(account)s AND r.name = g.name AND r.created_at >= %(start)s AND r.created_at < %(end)s
        ORDER BY r.created_at, r.id
        LIMIT %(few)s
    ) AS f
) AS s
ORDER BY g.name;

-- name: invalid_rows
SELECT r.id, r.name, r.value, r.value_in_business_hours
FROM reporting_events AS r
WHERE r.account_id = %(account)s AND r.name = ANY(%(names)s) AND r.created_at >= %(start)s AND r.created_at < %(end)s
    AND NOT (coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true))
ORDER BY r.created_at, r.id
LIMIT %(few)s;

-- name: late_events
SELECT l.event_id, l.recorded_at, EXISTS (SELECT FROM reporting_events AS r WHERE r.id = l.event_id), count(*) OVER ()
FROM late_events AS l
WHERE l.account_id = %(account)s AND l.date = %(date)s
ORDER BY l.event_id
LIMIT %(few)s;

-- name: rows_against_raw
-- Every row of the rollup beside what the raw events of the day give for it. Sums are seconds.
WITH event AS MATERIALIZED (
    SELECT
        r.name, {columns},
        coalesce(round(r.value * 1e6::float8)::bigint, 0) AS value_us,
        coalesce(round(r.value_in_business_hours * 1e6::float8)::bigint, 0) AS business_us
    FROM reporting_events AS r
    WHERE r.account_id = %(account)s AND r.name = ANY(%(names)s) AND r.created_at >= %(start)s AND r.created_at < %(end)s
        AND coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true)
), feeds AS (
    SELECT * FROM unnest(%(events)s::text[], %(metrics)s::text[], %(kinds)s::text[]) AS f(event, metric, kind)
), raw AS (
    SELECT
        g.dimension_type, g.dimension_id, f.metric, sum(g.events)::bigint AS count,
        sum(CASE WHEN f.kind = 'duration' THEN g.value_us ELSE 0 END) * 0.000001 AS sum_value,
        sum(CASE WHEN f.kind = 'duration' THEN g.business_us ELSE 0 END) * 0.000001 AS sum_value_business_hours
    FROM (
        SELECT
            e.name, d.type AS dimension_type, d.id AS dimension_id,
            count(*) AS events, sum(e.value_us) AS value_us, sum(e.business_us) AS business_us
        FROM event AS e
        CROSS JOIN LATERAL (VALUES {dimensions}) AS d(type, id)
        WHERE d.id IS NOT NULL
        GROUP BY e.name, d.type, d.id
    ) AS g
    JOIN feeds AS f ON f.event = g.name AND f.kind <> 'distinct'
    GROUP BY g.dimension_type, g.dimension_id, f.metric
    UNION ALL
    SELECT d.type, d.id, f.metric, count(DISTINCT m.id), 0, 0
    FROM event AS e
    JOIN feeds AS f ON f.event = e.name AND f.kind = 'distinct'
    CROSS JOIN LATERAL (VALUES {dimensions}) AS d(type, id)
    CROSS JOIN LATERAL (VALUES ({member})) AS m(id)
    WHERE d.id IS NOT NULL AND m.id IS NOT NULL
    GROUP BY d.type, d.id, f.metric
), rollup AS (
    SELECT dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours
    FROM reporting_events_rollups
    WHERE account_id = %(account)s AND date = %(date)s AND (%(metric)s::text IS NULL OR metric = %(metric)s)
)
SELECT
    dimension_type, dimension_id, metric,
    rollup.count, rollup.sum_value, rollup.sum_value_business_hours,
    raw.count, raw.sum_value, raw.sum_value_business_hours
FROM rollup FULL JOIN raw USING (dimension_type, dimension_id, metric)
ORDER BY dimension_type, dimension_id, metric;

-- name: event_in_raw
-- PostgreSQL knows instants that no other calendar does (infinity, BC): those come as text alone.
SELECT
    r.account_id, r.name,
    CASE WHEN r.created_at BETWEEN '0001-01-01' AND '9999-12-31' THEN r.created_at END, r.created_at::text,
    r.value, r.value_in_business_hours
FROM reporting_events AS r
WHERE r.id = %(event)s;

-- name: event_bits
-- Who set the event's bit: a partition, or a rebuild (shard 0). The lowest bit of a byte comes first.
SELECT c.shard, o.group_id, o.topic, o.partition, c.last_day
FROM counted_events AS c
LEFT JOIN consumer_offsets AS o USING (shard)
WHERE c.chunk = %(chunk)s
    AND CASE WHEN octet_length(c.bits) * 8 > %(bit)s THEN get_bit(c.bits, %(bit)s) = 1 ELSE false END
ORDER BY c.shard;

-- name: event_late
SELECT account_id, date, recorded_at FROM late_events WHERE event_id = %(event)s ORDER BY account_id, date;

-- name: valid_events_of_day
SELECT count(*) FROM reporting_events AS r
WHERE r.account_id = %(account)s AND r.name = ANY(%(names)s) AND r.created_at >= %(start)s AND r.created_at < %(end)s
    AND coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true);

-- name: letters_with
-- Dead letters whose value has these digits somewhere. Those that were replayed are events like others by now.
SELECT topic, partition, "offset", created_at, error_class, reason, value FROM dead_letters
WHERE replayed_at IS NULL AND position(%(digits)s::bytea IN value) > 0
ORDER BY id;

-- name: letters_that_do_not_parse
-- In all; with this key, which is the account's id by contract; with these digits somewhere in the value.
SELECT
    count(*), count(*) FILTER (WHERE key = %(key)s::bytea),
    count(*) FILTER (WHERE position(%(digits)s::bytea IN value) > 0)
FROM dead_letters
WHERE replayed_at IS NULL AND error_class = ANY(%(classes)s);
