-- Statements of the backfill's commands; consumer/rollup/statements.sql has those that a rebuild shares with the live path.

-- name: timezones
SELECT account_id, reporting_timezone FROM account_settings
WHERE reporting_timezone IS NOT NULL AND (%(accounts)s::int[] IS NULL OR account_id = ANY(%(accounts)s::int[]))
ORDER BY account_id;

-- name: first_raw_events
-- The first raw event of each account, in microseconds since 1970: one look into the index for each event name. Rows
-- outside of the instants that a message may have are passed over: they are on no day that exists.
SELECT a.account_id, min(e.first_us)
FROM unnest(%(accounts)s::int[]) AS a(account_id)
CROSS JOIN unnest(%(names)s::text[]) AS n(name)
CROSS JOIN LATERAL (
    SELECT (extract(epoch FROM r.created_at) * 1000000)::bigint AS first_us
    FROM reporting_events AS r
    WHERE r.account_id = a.account_id AND r.name = n.name
        AND r.created_at >= %(earliest)s AND r.created_at <= %(latest)s
    ORDER BY r.created_at LIMIT 1
) AS e
GROUP BY a.account_id
ORDER BY a.account_id;

-- name: count_raw_events
SELECT coalesce(sum(f.events), 0)::bigint
FROM unnest(%(accounts)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS a(account_id, starts, ends)
CROSS JOIN unnest(%(names)s::text[]) AS n(name)
CROSS JOIN LATERAL (
    SELECT count(*) AS events FROM reporting_events AS r
    WHERE r.account_id = a.account_id AND r.name = n.name AND r.created_at >= a.starts AND r.created_at < a.ends
) AS f;

-- name: begin_run
INSERT INTO backfill_runs (selection) VALUES (%(selection)s) RETURNING id;

-- name: end_run
UPDATE backfill_runs SET finished_at = now() WHERE id = %(id)s;

-- name: unfinished_runs
-- The newest first; overtaken: the same was asked for later, and came to its end.
SELECT r.id, r.selection, r.started_at, EXISTS (
    SELECT FROM backfill_runs AS later
    WHERE later.id > r.id AND later.selection = r.selection AND later.finished_at IS NOT NULL
) AS overtaken
FROM backfill_runs AS r WHERE r.finished_at IS NULL ORDER BY r.id DESC;

-- name: count_done
-- Days of these ranges that are rebuilt since then, and not stale again.
SELECT coalesce(sum(f.days), 0)::bigint
FROM unnest(%(accounts)s::int[], %(firsts)s::date[], %(lasts)s::date[]) AS r(account_id, first, last)
JOIN account_settings AS s USING (account_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS days FROM rollup_days AS d
    WHERE d.account_id = r.account_id AND d.date BETWEEN r.first AND r.last
        AND d.rebuilt_at >= %(since)s AND d.stale_since IS NULL AND d.timezone = s.reporting_timezone
) AS f;

-- name: accounts_done
-- Those of the accounts whose day is rebuilt since then, and not stale again.
SELECT d.account_id FROM rollup_days AS d
JOIN account_settings AS s USING (account_id)
WHERE d.account_id = ANY(%(accounts)s) AND d.date = %(date)s
    AND d.rebuilt_at >= %(since)s AND d.stale_since IS NULL AND d.timezone = s.reporting_timezone;

-- name: stale_other_timezones
-- A trigger does this when a time zone changes; whatever got past it is found here, or next time if somebody holds it.
UPDATE rollup_days AS d SET stale_since = now(), updated_at = now()
FROM (
    SELECT d.account_id, d.date FROM rollup_days AS d JOIN account_settings AS s USING (account_id)
    WHERE d.timezone <> s.reporting_timezone AND d.stale_since IS NULL
    FOR UPDATE OF d SKIP LOCKED
) AS moved
WHERE (d.account_id, d.date) = (moved.account_id, moved.date);

-- name: days_to_rebuild
-- A page of the stale days that have settled, those waiting longest first; `until` is when the look at them began, so that
-- what becomes stale again meanwhile is for the next one.
SELECT d.stale_since, d.date, d.account_id FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.stale_since <= %(until)s AND (d.settles_at IS NULL OR d.settles_at <= now())
    AND (d.stale_since, d.date, d.account_id) > (%(since)s::timestamptz, %(date)s::date, %(account)s::int)
ORDER BY d.stale_since, d.date, d.account_id LIMIT %(most)s;

-- name: accounts_to_rebuild
-- Those of the accounts whose day still needs it. Nobody waits for anybody here: days that another worker or a consumer
-- holds are passed over, so any number of workers share the work.
SELECT d.account_id FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.date = %(date)s AND d.account_id = ANY(%(accounts)s)
    AND d.stale_since IS NOT NULL AND (d.settles_at IS NULL OR d.settles_at <= now())
ORDER BY d.account_id
FOR UPDATE OF d SKIP LOCKED;

-- name: days_to_close
-- A page of the days that were counted live and have left the open window of their account's time zone, oldest first.
SELECT d.date, d.account_id FROM rollup_days AS d
JOIN account_settings AS s USING (account_id)
JOIN unnest(%(timezones)s::text[], %(last_dates)s::date[]) AS w(timezone, last_date)
    ON w.timezone = s.reporting_timezone AND d.date <= w.last_date
WHERE NOT d.closed AND d.timezone = s.reporting_timezone AND d.events IS NOT NULL
    AND (d.settles_at IS NULL OR d.settles_at <= now())
    AND (d.date, d.account_id) > (%(date)s::date, %(account)s::int)
ORDER BY d.date, d.account_id LIMIT %(most)s;

-- name: accounts_to_close
SELECT d.account_id FROM rollup_days AS d
JOIN account_settings AS s USING (account_id)
JOIN unnest(%(timezones)s::text[], %(last_dates)s::date[]) AS w(timezone, last_date)
    ON w.timezone = s.reporting_timezone AND d.date <= w.last_date
WHERE d.date = %(date)s AND d.account_id = ANY(%(accounts)s)
    AND NOT d.closed AND d.timezone = s.reporting_timezone AND d.events IS NOT NULL
    AND (d.settles_at IS NULL OR d.settles_at <= now())
ORDER BY d.account_id
FOR UPDATE OF d SKIP LOCKED;

-- name: states_of_days
-- What a day was like when it was last tried, to see whether anything has happened to it since.
SELECT d.account_id, d.date, d.stale_since, d.closed FROM rollup_days AS d
JOIN unnest(%(accounts)s::int[], %(dates)s::date[]) AS a(account_id, date) USING (account_id, date);

-- name: close_days_switched_off
-- Days of accounts that have no time zone any more cannot be audited: they close as they are, and are stale if the
-- account comes back. Those that somebody holds are closed the next time.
UPDATE rollup_days AS d SET closed = true, stale_since = coalesce(d.stale_since, now()), updated_at = now()
FROM (
    SELECT account_id, date FROM rollup_days AS o
    WHERE NOT o.closed AND o.date <= %(last_date)s AND NOT EXISTS (
        SELECT FROM account_settings AS s WHERE s.account_id = o.account_id AND s.reporting_timezone IS NOT NULL
    )
    FOR UPDATE SKIP LOCKED
) AS free
WHERE d.account_id = free.account_id AND d.date = free.date;

-- name: prune_bitmap
-- Bits are needed while an event of theirs can be counted live: its day is open, or may open again because its time zone
-- changed. last_day is an upper bound of the days that a row's events had when they were counted; in another time zone an
-- event lies two dates later at most. A row that a consumer is writing to is looked at again after it.
DELETE FROM counted_events AS c
WHERE c.last_day + 2 < least(
    %(last_date)s::date,
    (
        SELECT min(d.date) FROM rollup_days AS d LEFT JOIN account_settings AS s USING (account_id)
        WHERE NOT d.closed OR d.events IS NULL OR d.timezone <> s.reporting_timezone
    )
);

-- name: settling
-- The stale days that have not settled, and from when on a rebuild completes all of them.
SELECT count(*), max(d.settles_at) FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.stale_since IS NOT NULL AND d.settles_at > now()
    AND (%(accounts)s::int[] IS NULL OR d.account_id = ANY(%(accounts)s::int[]));

-- name: stale_summary
SELECT
    count(*), coalesce(extract(epoch FROM now() - min(d.stale_since)), 0)::float8,
    (SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL AND discarded_at IS NULL)
FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.stale_since IS NOT NULL;
