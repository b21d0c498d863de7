-- Every statement of the live path and the rebuild, by name, with its intent. Loaded by statements.py.
-- Order of locks, everywhere: settings (shared) < consumer_offsets < rollup_days < the rest, each table by sorted key.

-- name: share_settings
-- Keep settings from changing until the transaction ends; which version they have.
SELECT pg_advisory_xact_lock_shared(hashtextextended('reporting-rollup settings', 0));

-- name: settings_version
SELECT settings_version FROM rollup_control;

-- name: account_zones
-- Every account that has a rollup, and the version of the settings that this is a snapshot of.
SELECT c.settings_version, a.account_id, a.reporting_timezone
FROM rollup_control AS c
LEFT JOIN account_settings AS a ON a.reporting_timezone IS NOT NULL;

-- name: adopt_partitions
-- A partition that this group has never read starts at its log's start.
INSERT INTO consumer_offsets (group_id, topic, partition, topic_id, next_offset)
SELECT %(group_id)s, p.topic, p.partition, p.topic_id, p.next_offset
FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(topic_ids)s::text[], %(starts)s::bigint[])
    AS p(topic, partition, topic_id, next_offset)
ORDER BY p.topic, p.partition
ON CONFLICT DO NOTHING;

-- name: stored_offsets
SELECT o.topic, o.partition, o.topic_id, o.next_offset
FROM consumer_offsets AS o
JOIN unnest(%(topics)s::text[], %(partitions)s::int[]) AS p(topic, partition) USING (topic, partition)
WHERE o.group_id = %(group_id)s;

-- name: reset_offset
-- The operator chose to go on from the log's start (ON_OFFSET_GAP=reset).
UPDATE consumer_offsets SET next_offset = %(start)s, topic_id = %(topic_id)s, updated_at = now()
WHERE group_id = %(group_id)s AND topic = %(topic)s AND partition = %(partition)s
    AND next_offset = %(expected)s AND topic_id = %(expected_topic_id)s;

-- name: lock_offsets
-- The batch's partitions as they stand, ours until the transaction ends.
SELECT o.topic, o.partition, o.topic_id, o.next_offset, o.shard
FROM consumer_offsets AS o
JOIN unnest(%(topics)s::text[], %(partitions)s::int[]) AS p(topic, partition) USING (topic, partition)
WHERE o.group_id = %(group_id)s
ORDER BY o.topic, o.partition
FOR UPDATE OF o;

-- name: move_offsets
-- The next offsets, and what became of every message before them.
UPDATE consumer_offsets AS o SET
    next_offset = b.next_offset,
    messages = o.messages + b.messages,
    counted = o.counted + b.counted,
    duplicates = o.duplicates + b.duplicates,
    late = o.late + b.late,
    skipped = o.skipped + b.skipped,
    dead = o.dead + b.dead,
    updated_at = now()
FROM unnest(
    %(topics)s::text[], %(partitions)s::int[], %(next_offsets)s::bigint[], %(messages)s::bigint[],
    %(counted)s::bigint[], %(duplicates)s::bigint[], %(late)s::bigint[], %(skipped)s::bigint[], %(dead)s::bigint[]
) AS b(topic, partition, next_offset, messages, counted, duplicates, late, skipped, dead)
WHERE o.group_id = %(group_id)s AND o.topic = b.topic AND o.partition = b.partition;

-- name: lock_days
-- Insert or lock the batch's days in order, and add the events it brings to those that are counted live. The others
-- (closed, of another time zone, settling) become stale. A day that began before the account's rollup was switched on
-- and settled has raw events that were not counted: it is stale from the start.
INSERT INTO rollup_days AS d (account_id, date, timezone, closed, stale_since, settles_at, events, registry)
SELECT
    b.account_id, b.date, b.timezone, NOT b.in_window,
    CASE WHEN NOT b.in_window OR s.settles_at > b.starts_at THEN now() END,
    CASE WHEN s.settles_at > b.starts_at THEN s.settles_at END,
    CASE WHEN b.in_window THEN b.events ELSE 0 END,
    %(registry)s
FROM unnest(
    %(accounts)s::int[], %(dates)s::date[], %(timezones)s::text[], %(starts)s::timestamptz[],
    %(in_window)s::boolean[], %(events)s::bigint[]
) AS b(account_id, date, timezone, starts_at, in_window, events)
CROSS JOIN LATERAL (
    SELECT max(a.rollup_since + make_interval(secs => c.settle_seconds)) AS settles_at
    FROM rollup_control AS c LEFT JOIN account_settings AS a ON a.account_id = b.account_id
) AS s
ORDER BY b.account_id, b.date
ON CONFLICT (account_id, date) DO UPDATE SET
    events = d.events + CASE WHEN d.closed OR d.timezone <> excluded.timezone THEN 0 ELSE excluded.events END,
    stale_since = CASE
        WHEN d.closed OR d.timezone <> excluded.timezone OR d.events IS NULL THEN coalesce(d.stale_since, now())
        ELSE d.stale_since
    END,
    updated_at = now()
RETURNING d.account_id, d.date, d.timezone, d.closed OR d.events IS NULL AS not_counted_live;

-- name: uncount_days
-- Take back what lock_days added for events that turned out to be counted already. Their rows are locked.
UPDATE rollup_days AS d SET events = d.events - b.events
FROM unnest(%(accounts)s::int[], %(dates)s::date[], %(events)s::bigint[]) AS b(account_id, date, events)
WHERE d.account_id = b.account_id AND d.date = b.date;

-- name: keep_late_events
INSERT INTO late_events (account_id, date, event_id)
SELECT * FROM unnest(%(accounts)s::int[], %(dates)s::date[], %(ids)s::bigint[]) AS b(account_id, date, event_id)
ORDER BY account_id, date, event_id
ON CONFLICT DO NOTHING;

-- name: counted_bits
SELECT chunk, shard, bits FROM counted_events WHERE chunk = ANY(%(chunks)s::bigint[]);

-- name: store_bits
-- Whole rows of one shard; whoever writes them holds the shard (its partition's row, or the rebuild lock).
INSERT INTO counted_events AS c (chunk, shard, bits, last_day)
SELECT * FROM unnest(%(chunks)s::bigint[], %(shards)s::int[], %(bits)s::bytea[], %(last_days)s::date[])
    AS b(chunk, shard, bits, last_day)
ORDER BY chunk, shard
ON CONFLICT (chunk, shard) DO UPDATE SET
    bits = excluded.bits,
    last_day = greatest(c.last_day, excluded.last_day);

-- name: create_stages
-- Where COPY puts a batch's rows before one statement takes them over; empty again after every transaction.
CREATE TEMPORARY TABLE IF NOT EXISTS stage_rollups (
    account_id integer, date date, dimension_type text COLLATE "C", dimension_id bigint, metric text COLLATE "C",
    count bigint, sum_us numeric, business_us numeric
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS stage_members (
    account_id integer, date date, dimension_type text COLLATE "C", dimension_id bigint, metric text COLLATE "C",
    member_id bigint
) ON COMMIT DELETE ROWS;

-- name: copy_rollups
COPY stage_rollups (account_id, date, dimension_type, dimension_id, metric, count, sum_us, business_us) FROM STDIN;

-- name: copy_members
COPY stage_members (account_id, date, dimension_type, dimension_id, metric, member_id) FROM STDIN;

-- name: count_new_members
-- Members seen for the first time are what a distinct count grows by.
WITH fresh AS (
    INSERT INTO rollup_members (account_id, date, dimension_type, dimension_id, metric, member_id)
    SELECT account_id, date, dimension_type, dimension_id, metric, member_id FROM stage_members
    ON CONFLICT DO NOTHING
    RETURNING account_id, date, dimension_type, dimension_id, metric
)
INSERT INTO stage_rollups (account_id, date, dimension_type, dimension_id, metric, count, sum_us, business_us)
SELECT account_id, date, dimension_type, dimension_id, metric, count(*), 0, 0
FROM fresh
GROUP BY account_id, date, dimension_type, dimension_id, metric;

-- name: add_rollups
-- One sorted upsert for the whole batch; microseconds become seconds with six exact decimals.
INSERT INTO reporting_events_rollups AS r
    (account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours)
SELECT account_id, date, dimension_type, dimension_id, metric, count, sum_us * 0.000001, business_us * 0.000001
FROM stage_rollups
ORDER BY account_id, date, dimension_type, dimension_id, metric
ON CONFLICT (account_id, date, dimension_type, dimension_id, metric) DO UPDATE SET
    count = r.count + excluded.count,
    sum_value = r.sum_value + excluded.sum_value,
    sum_value_business_hours = r.sum_value_business_hours + excluded.sum_value_business_hours,
    updated_at = now();

-- name: bury
-- Dead letters, once per message however often it is read.
INSERT INTO dead_letters
    (group_id, topic, topic_id, partition, "offset", key, value, headers, message_timestamp, error_class, reason)
VALUES (
    %(group_id)s, %(topic)s, %(topic_id)s, %(partition)s, %(offset)s, %(key)s, %(value)s, %(headers)s,
    %(timestamp)s, %(error_class)s, %(reason)s
)
ON CONFLICT ON CONSTRAINT dead_letters_once DO NOTHING;

-- name: stale_days
-- How many days are known to be behind, and since when the oldest is.
SELECT count(*), min(stale_since) FROM rollup_days WHERE stale_since IS NOT NULL;
