-- Statements of the dialogue of `python -m backfill` without arguments.

-- name: lowest_account_with_zone
SELECT min(account_id) FROM account_settings WHERE reporting_timezone IS NOT NULL;

-- name: raw_range
-- The account's raw events: how many, and when the first and the last was created, in microseconds since 1970, of those
-- that a message could be. Answered from the index on (account_id, name, created_at); the session's time zone is UTC.
SELECT
    coalesce(sum(f.events), 0)::bigint,
    (extract(epoch FROM min(f.first)) * 1000000)::bigint,
    (extract(epoch FROM max(f.last)) * 1000000)::bigint
FROM unnest(%(names)s::text[]) AS n(name)
CROSS JOIN LATERAL (
    SELECT count(*) AS events, min(r.created_at)::timestamptz AS first, max(r.created_at)::timestamptz AS last
    FROM reporting_events AS r
    WHERE r.account_id = %(account)s AND r.name = n.name
        AND r.created_at >= %(earliest)s AND r.created_at <= %(latest)s
) AS f;
