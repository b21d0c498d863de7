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

-- name: zones_of_days
SELECT DISTINCT timezone FROM rollup_days WHERE account_id = %(account)s ORDER BY timezone;

-- name: first_raw_event
-- In microseconds since 1970; one look into the index for each name. The session's time zone is UTC.
SELECT (extract(epoch FROM min(f.created_at::timestamptz)) * 1000000)::bigint
FROM unnest(%(names)s::text[]) AS n(name)
CROSS JOIN LATERAL (
    SELECT r.created_at FROM reporting_events AS r
    WHERE r.account_id = %(account)s AND r.name = n.name
    ORDER BY r.created_at LIMIT 1
) AS f;

-- name: days_without_raw
-- Days that were counted and lie before the first raw event, whose date depends on the zone they were cut in.
SELECT count(*), min(d.date), max(d.date)
FROM rollup_days AS d
JOIN unnest(%(zones)s::text[], %(first_dates)s::date[]) AS b(timezone, first_date) ON b.timezone = d.timezone
WHERE d.account_id = %(account)s AND d.events > 0 AND (b.first_date IS NULL OR d.date < b.first_date);

-- name: stale_days
-- How many days of the account wait for a rebuild, which, from when one completes them, and how long that is from now.
SELECT count(*), min(d.date), max(d.date), max(d.settles_at),
    greatest(0, extract(epoch FROM max(d.settles_at) - now()))::float8
FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.account_id = %(account)s AND (d.stale_since IS NOT NULL OR d.timezone <> s.reporting_timezone);

-- name: stale_dates
-- The newest first: reports are mostly about them.
SELECT d.date
FROM rollup_days AS d
JOIN account_settings AS s ON s.account_id = d.account_id AND s.reporting_timezone IS NOT NULL
WHERE d.account_id = %(account)s AND (d.stale_since IS NOT NULL OR d.timezone <> s.reporting_timezone)
ORDER BY d.date DESC;

-- name: lowest_account
SELECT min(account_id) FROM account_settings;
