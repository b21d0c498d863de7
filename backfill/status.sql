-- What `python -m backfill status` asks, in one snapshot. Loaded by status.py.

-- name: accounts
SELECT now(), count(reporting_timezone), count(*) - count(reporting_timezone) FROM account_settings;

-- name: days_by_state
SELECT state, count(*) FROM rollup_coverage GROUP BY state;

-- name: waiting_days
-- Days that wait for a rebuild, those that wait longest first: how many in all, and for longer than `long`.
SELECT
    c.account_id, c.date, c.state, coalesce(d.stale_since, d.updated_at) AS since,
    count(*) FILTER (WHERE coalesce(d.stale_since, d.updated_at) < now() - %(long)s::interval) OVER () AS overdue
FROM rollup_coverage AS c
JOIN rollup_days AS d USING (account_id, date)
WHERE c.state IN ('stale', 'settling')
ORDER BY since, c.account_id, c.date
LIMIT 1;

-- name: audits
SELECT count(audited_at), max(audited_at), count(*) FILTER (WHERE drift > 0), coalesce(sum(drift), 0)::bigint
FROM rollup_days;

-- name: late_events
SELECT count(*), count(DISTINCT (account_id, date)), min(recorded_at) FROM late_events;

-- name: dead_letters
-- Those that wait for somebody.
SELECT error_class, count(*), min(created_at), max(created_at) FROM dead_letters
WHERE replayed_at IS NULL AND discarded_at IS NULL
GROUP BY error_class ORDER BY count(*) DESC, error_class;

-- name: bitmap
SELECT count(*), coalesce(sum(octet_length(bits)), 0)::bigint, max(last_day) FROM counted_events;

-- name: sizes
SELECT t.name, pg_table_size(to_regclass(t.name)), pg_indexes_size(to_regclass(t.name))
FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS t(name, place)
ORDER BY t.place;

-- name: partitions
SELECT
    group_id, topic, partition, topic_id, next_offset, messages, counted, duplicates, late, skipped, dead, updated_at,
    extract(epoch FROM now() - updated_at)::float8
FROM consumer_offsets
ORDER BY group_id, topic, partition;
