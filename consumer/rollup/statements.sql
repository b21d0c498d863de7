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
-- Insert or lock the batch's days in order, and add the events it brings to those in the window that are counted live.
-- Those that are not counted live (closed, of another time zone, settling) become stale. A day that began before the
-- account's rollup was switched on and settled has raw events that were not counted: it is stale from the start.
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
        WHEN d.registry <> excluded.registry THEN coalesce(d.stale_since, now())
        ELSE d.stale_since
    END,
    registry = excluded.registry,
    updated_at = now()
RETURNING d.account_id, d.date, d.timezone, d.closed OR d.events IS NULL AS not_counted_live;

-- name: add_to_days
-- Correct what lock_days added, in rows that it locked: less for events that turned out to be counted already, more for
-- open days outside the window.
UPDATE rollup_days AS d SET events = d.events + b.events
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

-- name: plan_for_lookups
-- The live path looks up the batch's keys by index. A join by hash would read whole tables once they are large, and
-- statistics from when a table was empty would have it read again for every row. Compiling a plan costs more than these
-- short statements gain, at every transaction anew.
SET jit = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;

-- name: count_new_members
-- Members seen for the first time are what a distinct count grows by. Under the day locks nobody else can add them.
WITH fresh AS (
    INSERT INTO rollup_members (account_id, date, dimension_type, dimension_id, metric, member_id)
    SELECT s.account_id, s.date, s.dimension_type, s.dimension_id, s.metric, s.member_id
    FROM stage_members AS s
    WHERE NOT EXISTS (
        SELECT FROM rollup_members AS r
        WHERE (r.account_id, r.date, r.dimension_type, r.dimension_id, r.metric, r.member_id)
            = (s.account_id, s.date, s.dimension_type, s.dimension_id, s.metric, s.member_id)
    )
    RETURNING account_id, date, dimension_type, dimension_id, metric
)
INSERT INTO stage_rollups (account_id, date, dimension_type, dimension_id, metric, count, sum_us, business_us)
SELECT account_id, date, dimension_type, dimension_id, metric, count(*), 0, 0
FROM fresh
GROUP BY account_id, date, dimension_type, dimension_id, metric;

-- name: add_rollups
-- Add the whole batch at once; microseconds become seconds with six exact decimals. Rows come sorted by key from COPY.
-- MERGE is a quarter cheaper than ON CONFLICT, and safe: under the day locks nobody else can insert these keys.
MERGE INTO reporting_events_rollups AS r
USING stage_rollups AS s
ON (r.account_id, r.date, r.dimension_type, r.dimension_id, r.metric)
    = (s.account_id, s.date, s.dimension_type, s.dimension_id, s.metric)
WHEN MATCHED THEN UPDATE SET
    count = r.count + s.count,
    sum_value = r.sum_value + s.sum_us * 0.000001,
    sum_value_business_hours = r.sum_value_business_hours + s.business_us * 0.000001,
    updated_at = now()
WHEN NOT MATCHED THEN
    INSERT (account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours)
    VALUES (
        s.account_id, s.date, s.dimension_type, s.dimension_id, s.metric, s.count,
        s.sum_us * 0.000001, s.business_us * 0.000001
    );

-- name: bury
-- Dead letters, once per message however often it is read.
INSERT INTO dead_letters
    (group_id, topic, topic_id, partition, "offset", key, value, headers, message_timestamp, error_class, reason)
VALUES (
    %(group_id)s, %(topic)s, %(topic_id)s, %(partition)s, %(offset)s, %(key)s, %(value)s, %(headers)s,
    %(timestamp)s, %(error_class)s, %(reason)s
)
ON CONFLICT ON CONSTRAINT dead_letters_once DO NOTHING;

-- name: count_stale_days
-- How many days of accounts that have a rollup are known to be behind, and since when the oldest is.
SELECT count(*), min(d.stale_since)
FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.stale_since IS NOT NULL;

-- name: begin_rebuild
-- Its statements are large, and one plan fits all days: they are written so that it need not know them. Tables are
-- looked up by their keys, even those that were empty when the plan was made; events are hashed, never sorted to be
-- grouped.
SELECT
    set_config('plan_cache_mode', 'force_generic_plan', true),
    set_config('enable_seqscan', 'off', true),
    set_config('enable_sort', 'off', true),
    set_config('work_mem', '32MB', true),
    set_config('jit', 'off', true),
    pg_advisory_xact_lock_shared(hashtextextended('reporting-rollup settings', 0));

-- name: timezones_of
SELECT account_id, reporting_timezone FROM account_settings
WHERE account_id = ANY(%(accounts)s) AND reporting_timezone IS NOT NULL;

-- name: lock_days_to_rebuild
-- The rebuild's days, sorted; inserted if nobody has seen them. settled: raw rows of messages read before the account's
-- time zone changed, or before its rollup was switched on, have arrived by now.
INSERT INTO rollup_days AS d (account_id, date, timezone, closed, settles_at, events, registry)
SELECT
    b.account_id, %(date)s, b.timezone, NOT b.in_window,
    a.rollup_since + make_interval(secs => c.settle_seconds), 0, %(registry)s
FROM unnest(%(accounts)s::int[], %(timezones)s::text[], %(in_window)s::boolean[])
    AS b(account_id, timezone, in_window)
CROSS JOIN rollup_control AS c
JOIN account_settings AS a USING (account_id)
ORDER BY b.account_id
ON CONFLICT (account_id, date) DO UPDATE SET updated_at = now()
RETURNING d.account_id, d.timezone, d.closed, d.events, d.settles_at IS NULL OR d.settles_at <= now() AS settled;

-- name: raw_time_type
-- Whether the application keeps created_at as `timestamp` (UTC) or `timestamptz`.
SELECT format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = to_regclass('reporting_events') AND attname = 'created_at' AND NOT attisdropped;

-- name: create_raw_stage
CREATE TEMPORARY TABLE IF NOT EXISTS stage_raw (
    id bigint, name text COLLATE "C", valid boolean, value_us bigint, business_us bigint, account_id bigint, {columns}
) ON COMMIT DELETE ROWS;

-- name: late_events_found
-- Late events that are in raw by now, with their instants in microseconds since 1970: they may lie on another day since
-- the account's time zone changed. Asked before the raw events are read. The session's time zone is UTC.
SELECT
    l.account_id, l.event_id,
    CASE WHEN r.created_at >= '2000-01-01' AND r.created_at < '9999-01-01'
        THEN (extract(epoch FROM r.created_at::timestamptz) * 1000000)::bigint
    END
FROM late_events AS l
JOIN reporting_events AS r ON r.id = l.event_id
WHERE l.account_id = ANY(%(accounts)s) AND l.date = %(date)s;

-- name: stage_raw_events
-- The one look at the days' raw events: everything a rebuild writes comes from this snapshot. Rows that a message could
-- not have either (durations beyond 1e9 s, NaN) are marked invalid. round() is half to even, as in numpy.
INSERT INTO stage_raw (id, name, valid, value_us, business_us, account_id, {columns})
SELECT
    r.id, r.name, v.valid,
    CASE WHEN v.valid THEN coalesce(round(r.value * 1e6::float8)::bigint, 0) END,
    CASE WHEN v.valid THEN coalesce(round(r.value_in_business_hours * 1e6::float8)::bigint, 0) END,
    r.account_id, {raw_columns}
FROM unnest(%(accounts)s::int[]) AS a(account_id)
CROSS JOIN unnest(%(names)s::text[]) AS n(name)
CROSS JOIN LATERAL (
    SELECT * FROM reporting_events AS e
    WHERE e.account_id = a.account_id AND e.name = n.name
        AND e.created_at >= %(start)s AND e.created_at < %(end)s
    OFFSET 0
) AS r
CROSS JOIN LATERAL (
    SELECT coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true) AS valid
) AS v;

-- name: raw_events_of
-- A part of the next statement: the raw events of the accounts asked for that have some names.
asked
    CROSS JOIN unnest({names}::text[]) AS n(name)
    CROSS JOIN LATERAL (
        SELECT e.account_id, e.name, e.value, e.value_in_business_hours, {raw_columns} FROM reporting_events AS e
        WHERE e.account_id = asked.account_id AND e.name = n.name
            AND e.created_at >= %(start)s AND e.created_at < %(end)s
        OFFSET 0
    ) AS r
    CROSS JOIN LATERAL (
        SELECT
            coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true) AS valid
    ) AS v

-- name: rebuild_closed_days
-- Days that nobody counts live, in one statement and so from one snapshot: where their raw events are as many as were
-- counted, they are added up and written without a temporary table. Its plan must not depend on what the planner thinks
-- of days and tables that it does not know, or knew when they were empty. OFFSET 0 has each (account, event name) read
-- as a range of the index of its own. NOT IN is hashed, however few rows are expected; nothing here is null. An array
-- has rows to delete looked up by account and date; joined, they could be looked for by date alone.
-- Events are added up by all dimensions together first: what is then added up by each of them is a tenth of the rows.
-- Rows that are right already are left alone. Members go: they tell what is new to a day that is counted live, and
-- nothing is ever added to a closed one.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%(accounts)s::int[], %(counted)s::bigint[]) AS a(account_id, counted)
), fine AS (
    SELECT
        r.account_id, r.name, v.valid, {dimensions}, count(*) AS count,
        sum(round(r.value * 1e6::float8)::bigint) FILTER (WHERE v.valid) AS value_us,
        sum(round(r.value_in_business_hours * 1e6::float8)::bigint) FILTER (WHERE v.valid) AS business_us
    FROM {raw}
    GROUP BY r.account_id, r.name, v.valid, {dimensions}
), grouped AS MATERIALIZED (
    SELECT
        account_id, name, valid, {is_whole} AS is_whole, {dimension_type} COLLATE "C" AS dimension_type,
        {dimension_id} AS dimension_id, sum(count) AS count,
        coalesce(sum(value_us), 0) AS value_us, coalesce(sum(business_us), 0) AS business_us
    FROM fine
    GROUP BY GROUPING SETS ({grouping_sets})
), numbers AS MATERIALIZED (
    SELECT
        asked.account_id, asked.counted, coalesce(sum(g.count) FILTER (WHERE g.valid), 0)::bigint AS valid,
        coalesce(sum(g.count) FILTER (WHERE NOT g.valid), 0)::bigint AS invalid
    FROM asked LEFT JOIN grouped AS g ON g.account_id = asked.account_id AND g.is_whole
    GROUP BY asked.account_id, asked.counted
), good AS MATERIALIZED (
    SELECT account_id FROM numbers WHERE valid >= counted
), totals AS MATERIALIZED (
    SELECT
        g.account_id, g.dimension_type, g.dimension_id::bigint, m.metric COLLATE "C" AS metric,
        sum(g.count)::bigint AS count,
        sum(CASE WHEN m.adds_time THEN g.value_us ELSE 0 END) * 0.000001 AS sum_value,
        sum(CASE WHEN m.adds_time THEN g.business_us ELSE 0 END) * 0.000001 AS sum_business
    FROM grouped AS g
    JOIN good USING (account_id)
    JOIN (VALUES {feeds}) AS m(event, metric, adds_time) ON m.event = g.name
    WHERE g.valid AND g.dimension_type IS NOT NULL AND g.dimension_id IS NOT NULL
    GROUP BY g.account_id, g.dimension_type, g.dimension_id, m.metric
    UNION ALL
    SELECT m.account_id, m.dimension_type, m.dimension_id, m.metric, count(*), 0, 0
    FROM ({members}) AS m(account_id, dimension_type, dimension_id, metric, member_id)
    JOIN good USING (account_id)
    GROUP BY m.account_id, m.dimension_type, m.dimension_id, m.metric
), gone AS (
    DELETE FROM reporting_events_rollups AS r
    WHERE r.account_id = ANY(ARRAY(SELECT account_id FROM good)) AND r.date = %(date)s
        AND (r.account_id, r.dimension_type, r.dimension_id, r.metric)
            NOT IN (SELECT account_id, dimension_type, dimension_id, metric FROM totals)
    RETURNING r.account_id
), written AS (
    INSERT INTO reporting_events_rollups AS r
        (account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours)
    SELECT account_id, %(date)s, dimension_type, dimension_id, metric, count, sum_value, sum_business
    FROM totals
    ORDER BY account_id, dimension_type, dimension_id, metric
    ON CONFLICT (account_id, date, dimension_type, dimension_id, metric) DO UPDATE SET
        count = excluded.count,
        sum_value = excluded.sum_value,
        sum_value_business_hours = excluded.sum_value_business_hours,
        updated_at = now()
    WHERE (r.count, r.sum_value, r.sum_value_business_hours)
        IS DISTINCT FROM (excluded.count, excluded.sum_value, excluded.sum_value_business_hours)
    RETURNING r.account_id
), members_gone AS (
    DELETE FROM rollup_members AS r
    WHERE r.account_id = ANY(ARRAY(SELECT account_id FROM good)) AND r.date = %(date)s
)
SELECT
    n.account_id, n.valid, n.invalid,
    (SELECT count(*) FROM gone WHERE gone.account_id = n.account_id)
        + (SELECT count(*) FROM written WHERE written.account_id = n.account_id)
FROM numbers AS n;

-- name: staged_counts
SELECT account_id, count(*) FILTER (WHERE valid), count(*) FILTER (WHERE NOT valid) FROM stage_raw GROUP BY account_id;

-- name: staged_ids
COPY (SELECT account_id, id FROM stage_raw WHERE valid AND account_id = ANY(%(accounts)s)) TO STDOUT (FORMAT binary);

-- name: unstage_accounts
DELETE FROM stage_raw WHERE account_id = ANY(%(accounts)s);

-- name: stage_rollups_from_raw
-- All dimensions and additive metrics in one pass over the events.
INSERT INTO stage_rollups (account_id, date, dimension_type, dimension_id, metric, count, sum_us, business_us)
SELECT
    g.account_id, %(date)s, g.dimension_type, g.dimension_id, m.metric, sum(g.count),
    sum(CASE WHEN m.adds_time THEN g.value_us ELSE 0 END), sum(CASE WHEN m.adds_time THEN g.business_us ELSE 0 END)
FROM (
    SELECT
        account_id, name, {dimension_type} AS dimension_type, {dimension_id} AS dimension_id,
        count(*) AS count, sum(value_us) AS value_us, sum(business_us) AS business_us
    FROM stage_raw
    WHERE valid
    GROUP BY GROUPING SETS ({grouping_sets})
) AS g
JOIN unnest(%(events)s::text[], %(metrics)s::text[], %(adds_time)s::boolean[]) AS m(event, metric, adds_time)
    ON m.event = g.name
WHERE g.dimension_id IS NOT NULL
GROUP BY g.account_id, g.dimension_type, g.dimension_id, m.metric;

-- name: stage_members_from_raw
-- The members of one distinct metric, in every dimension.
INSERT INTO stage_members (account_id, date, dimension_type, dimension_id, metric, member_id)
SELECT DISTINCT account_id, %(date)s::date, d.type, d.id, %(metric)s::text, {member}::bigint
FROM stage_raw
CROSS JOIN LATERAL (VALUES {dimensions}) AS d(type, id)
WHERE valid AND name = ANY(%(names)s) AND {member} IS NOT NULL AND d.id IS NOT NULL;

-- name: stage_member_counts
INSERT INTO stage_rollups (account_id, date, dimension_type, dimension_id, metric, count, sum_us, business_us)
SELECT account_id, date, dimension_type, dimension_id, metric, count(*), 0, 0
FROM stage_members
GROUP BY account_id, date, dimension_type, dimension_id, metric;

-- name: remove_rollups
WITH gone AS (
    DELETE FROM reporting_events_rollups AS r
    WHERE r.account_id = ANY(%(accounts)s) AND r.date = %(date)s AND NOT EXISTS (
        SELECT FROM stage_rollups AS s
        WHERE (s.account_id, s.dimension_type, s.dimension_id, s.metric)
            = (r.account_id, r.dimension_type, r.dimension_id, r.metric)
    )
    RETURNING r.account_id
)
SELECT account_id, count(*) FROM gone GROUP BY account_id;

-- name: replace_rollups
-- Rows that are right already are left alone.
WITH written AS (
    INSERT INTO reporting_events_rollups AS r
        (account_id, date, dimension_type, dimension_id, metric, count, sum_value, sum_value_business_hours)
    SELECT account_id, date, dimension_type, dimension_id, metric, count, sum_us * 0.000001, business_us * 0.000001
    FROM stage_rollups
    ORDER BY account_id, date, dimension_type, dimension_id, metric
    ON CONFLICT (account_id, date, dimension_type, dimension_id, metric) DO UPDATE SET
        count = excluded.count,
        sum_value = excluded.sum_value,
        sum_value_business_hours = excluded.sum_value_business_hours,
        updated_at = now()
    WHERE (r.count, r.sum_value, r.sum_value_business_hours)
        IS DISTINCT FROM (excluded.count, excluded.sum_value, excluded.sum_value_business_hours)
    RETURNING r.account_id
)
SELECT account_id, count(*) FROM written GROUP BY account_id;

-- name: remove_members
DELETE FROM rollup_members AS r
WHERE r.account_id = ANY(%(accounts)s) AND r.date = %(date)s AND NOT EXISTS (
    SELECT FROM stage_members AS s
    WHERE (s.account_id, s.dimension_type, s.dimension_id, s.metric, s.member_id)
        = (r.account_id, r.dimension_type, r.dimension_id, r.metric, r.member_id)
);

-- name: replace_members
INSERT INTO rollup_members (account_id, date, dimension_type, dimension_id, metric, member_id)
SELECT account_id, date, dimension_type, dimension_id, metric, member_id FROM stage_members
ON CONFLICT DO NOTHING;

-- name: forget_members
-- Of days that are closed from now on.
DELETE FROM rollup_members WHERE account_id = ANY(%(accounts)s) AND date = %(date)s;

-- name: lock_rebuild_bits
-- Rebuilds of open days share one shard of the bitmap: one at a time from here to its commit.
SELECT pg_advisory_xact_lock(hashtextextended('reporting-rollup rebuild bits', 0));

-- name: wait_for_nobody
-- Locks are had at once or not at all.
SET LOCAL lock_timeout = '1ms';

-- name: wait_as_before
SET LOCAL lock_timeout = DEFAULT;

-- name: add_days_of_late_events
-- The days that late events lie on, where nobody has seen them. Somebody who has just inserted one may wait for the day
-- that is being rebuilt: do not wait for them.
INSERT INTO rollup_days (account_id, date, timezone, closed, settles_at, events, registry)
SELECT DISTINCT
    b.account_id, b.date, b.timezone, NOT b.in_window,
    a.rollup_since + make_interval(secs => c.settle_seconds), 0, %(registry)s
FROM unnest(%(accounts)s::int[], %(dates)s::date[], %(timezones)s::text[], %(in_window)s::boolean[])
    AS b(account_id, date, timezone, in_window)
CROSS JOIN rollup_control AS c
JOIN account_settings AS a USING (account_id)
ORDER BY b.account_id, b.date
ON CONFLICT DO NOTHING;

-- name: move_late_events
-- From the date that they were noted on to the days that they lie on, which become stale; not to those that somebody
-- holds.
WITH moved AS (
    SELECT * FROM unnest(%(accounts)s::int[], %(ids)s::bigint[], %(dates)s::date[]) AS m(account_id, event_id, date)
), free AS (
    SELECT d.account_id, d.date FROM rollup_days AS d
    WHERE (d.account_id, d.date) IN (SELECT m.account_id, m.date FROM moved AS m)
    FOR UPDATE SKIP LOCKED
), stale AS (
    UPDATE rollup_days AS d SET stale_since = coalesce(d.stale_since, now()), updated_at = now()
    FROM free WHERE d.account_id = free.account_id AND d.date = free.date
    RETURNING d.account_id, d.date
), noted AS (
    INSERT INTO late_events (account_id, date, event_id)
    SELECT m.account_id, m.date, m.event_id FROM moved AS m JOIN stale USING (account_id, date)
    ON CONFLICT DO NOTHING
)
DELETE FROM late_events AS l USING moved AS m JOIN stale AS s USING (account_id, date)
WHERE l.account_id = m.account_id AND l.event_id = m.event_id AND l.date = %(date)s;

-- name: remove_late_events
DELETE FROM late_events AS l USING unnest(%(accounts)s::int[], %(ids)s::bigint[]) AS b(account_id, event_id)
WHERE l.account_id = b.account_id AND l.date = %(date)s AND l.event_id = b.event_id;

-- name: forget_late_events
-- The operator took raw as the truth: late events that it does not have never were. Those that lie on another date wait
-- for its rebuild.
DELETE FROM late_events
WHERE account_id = ANY(%(accounts)s) AND date = %(date)s AND event_id <> ALL(%(elsewhere)s::bigint[]);

-- name: mark_stale
UPDATE rollup_days SET stale_since = coalesce(stale_since, now()), updated_at = now()
WHERE account_id = ANY(%(accounts)s) AND date = %(date)s;

-- name: finish_rebuild
-- An unknown count (events) stays unknown until the change of time zone has settled. late: events of the day are known
-- that raw does not have yet, so it stays stale.
UPDATE rollup_days AS d SET
    timezone = b.timezone, closed = b.closed, events = b.events, registry = %(registry)s, rebuilt_at = now(),
    stale_since = CASE WHEN b.late OR NOT b.settled THEN coalesce(d.stale_since, now()) END,
    settles_at = CASE WHEN b.settled THEN NULL ELSE d.settles_at END,
    updated_at = now()
FROM (
    SELECT
        r.*, EXISTS (SELECT FROM late_events AS l WHERE l.account_id = r.account_id AND l.date = %(date)s) AS late
    FROM unnest(
        %(accounts)s::int[], %(timezones)s::text[], %(closed)s::boolean[], %(events)s::bigint[], %(settled)s::boolean[]
    ) AS r(account_id, timezone, closed, events, settled)
) AS b
WHERE d.account_id = b.account_id AND d.date = %(date)s
RETURNING d.account_id, b.late;

-- name: note_audit
UPDATE rollup_days AS d SET drift = d.drift + b.drift, audited_at = now()
FROM unnest(%(accounts)s::int[], %(drift)s::bigint[]) AS b(account_id, drift)
WHERE d.account_id = b.account_id AND d.date = %(date)s;
