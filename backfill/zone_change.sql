-- Statements of a change of an account's time zone, by name. What the change does to the account's days is done by the
-- trigger on account_settings, as for everybody else who changes it.

-- name: zone_of
SELECT reporting_timezone FROM account_settings WHERE account_id = %(account)s;

-- name: lock_account
-- Two who change one account do it one after the other.
SELECT reporting_timezone FROM account_settings WHERE account_id = %(account)s FOR UPDATE;

-- name: update_zone
UPDATE account_settings SET reporting_timezone = %(timezone)s WHERE account_id = %(account)s;

-- name: insert_zone
-- Not an upsert: the application's table may have further columns that an insert must name and an update need not.
INSERT INTO account_settings (account_id, reporting_timezone) VALUES (%(account)s, %(timezone)s);

-- name: counted_days
-- Not those of which raw rows may still be on their way.
SELECT date, timezone, events FROM rollup_days
WHERE account_id = %(account)s AND events > 0 AND (closed OR date < current_date - 2)
ORDER BY date;

-- name: first_raw_event
-- In microseconds since 1970; one look into the index for each name. No message can be older than 2000. The session's
-- time zone is UTC.
SELECT (extract(epoch FROM min(f.created_at::timestamptz)) * 1000000)::bigint
FROM unnest(%(names)s::text[]) AS n(name)
CROSS JOIN LATERAL (
    SELECT r.created_at FROM reporting_events AS r
    WHERE r.account_id = %(account)s AND r.name = n.name AND r.created_at >= '2000-01-01' AND r.created_at < 'infinity'
    ORDER BY r.created_at LIMIT 1
) AS f;

-- name: days_that_lack_raw
-- Days that have fewer valid raw events, within the bounds they were counted with, than were counted.
SELECT count(*), min(d.date), max(d.date)
FROM unnest(%(dates)s::date[], %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(events)s::bigint[])
    AS d(date, starts_at, ends_at, events)
WHERE d.events > (
    SELECT count(*)
    FROM unnest(%(names)s::text[]) AS n(name)
    CROSS JOIN LATERAL (
        SELECT e.value, e.value_in_business_hours FROM reporting_events AS e
        WHERE e.account_id = %(account)s AND e.name = n.name
            AND e.created_at >= d.starts_at AND e.created_at < d.ends_at
        OFFSET 0
    ) AS r
    WHERE coalesce(abs(r.value) <= 1e9, true) AND coalesce(abs(r.value_in_business_hours) <= 1e9, true)
);

-- name: waiting_days
-- How many days of the account wait for a rebuild, which, from when one completes them, and how long that is from now.
SELECT count(*), min(d.date), max(d.date), max(d.settles_at),
    greatest(0, extract(epoch FROM max(d.settles_at) - now()))::float8
FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.account_id = %(account)s AND (d.stale_since IS NOT NULL OR d.timezone <> s.reporting_timezone);

-- name: waiting_dates
-- The newest first: reports are mostly about them.
SELECT d.date
FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.account_id = %(account)s AND (d.stale_since IS NOT NULL OR d.timezone <> s.reporting_timezone)
ORDER BY d.date DESC;

-- name: lowest_account
SELECT min(account_id) FROM account_settings;
