-- The statements of `verify`. They are its own: neither the live path nor a rebuild uses any of them.

-- name: type_of_created_at
-- No rows; the answer's description tells whether raw instants are `timestamp` (UTC) or `timestamptz`.
SELECT created_at FROM reporting_events LIMIT 0;

-- name: account_zone
SELECT reporting_timezone FROM account_settings WHERE account_id = %(account)s;

-- name: look
-- Everything about one day in one statement, hence in one snapshot: what its row says, how many raw events it has, and
-- up to `limit` rows and members that are not what those raw events give. It locks nothing and waits for nobody.
-- due: the raw events that the rollup must contain. On a closed day, all valid ones; on an open day, those whose bit is
-- set (missing bytes are zeros); on a day without a row, none.
-- certain: wrong even if the rollup contains `missing` further events that raw does not have. A missing event can only
-- add to counts, one each; so a row whose count is right has the right sums. A closed day needs no members.
WITH day AS MATERIALIZED (
    SELECT
        s.reporting_timezone AS zone, d.timezone, d.closed, d.events, d.registry, d.date IS NOT NULL AS known,
        coalesce(d.stale_since, d.settles_at) IS NOT NULL AS stale
    FROM (VALUES (true)) AS always(one)
    LEFT JOIN account_settings AS s ON s.account_id = %(account)s
    LEFT JOIN rollup_days AS d ON d.account_id = %(account)s AND d.date = %(date)s
), raw AS MATERIALIZED (
    SELECT
        e.name, {columns}, v.valid,
        v.valid AND CASE (SELECT closed FROM day)
            WHEN true THEN true
            WHEN false THEN EXISTS (
                SELECT FROM counted_events AS c
                WHERE c.chunk = e.id::bigint >> 12 AND CASE
                    WHEN octet_length(c.bits) * 8 > (e.id & 4095) THEN get_bit(c.bits, (e.id & 4095)::bigint) = 1
                    ELSE false
                END
            )
            ELSE false
        END AS due,
        -- A cast rounds halves to even, as round() does.
        CASE WHEN v.valid THEN coalesce((e.value * 1e6::float8)::bigint, 0) END AS value_us,
        CASE WHEN v.valid THEN coalesce((e.value_in_business_hours * 1e6::float8)::bigint, 0) END AS business_us
    FROM reporting_events AS e
    CROSS JOIN LATERAL (
        -- NaN is above every number, and between none.
        SELECT
            coalesce(e.value BETWEEN -1e9 AND 1e9, true)
            AND coalesce(e.value_in_business_hours BETWEEN -1e9 AND 1e9, true) AS valid
    ) AS v
    WHERE e.account_id = %(account)s AND e.name = ANY(%(names)s)
        AND e.created_at >= %(starts)s AND e.created_at < %(ends)s
), tally AS MATERIALIZED (
    SELECT
        count(*) FILTER (WHERE valid) AS raw, count(*) FILTER (WHERE due) AS due,
        count(*) FILTER (WHERE NOT valid) AS invalid
    FROM raw
), cell AS (
    SELECT name, {dimension_columns}, count(*) AS n, sum(value_us) AS value_us, sum(business_us) AS business_us
    FROM raw WHERE due
    GROUP BY name, {dimension_columns}
), expected_member AS MATERIALIZED (
    SELECT DISTINCT d.type AS dimension_type, d.id AS dimension_id, m.metric, m.member_id
    FROM raw AS e
    CROSS JOIN LATERAL (VALUES {members}) AS m(event, metric, member_id)
    CROSS JOIN LATERAL (VALUES {dimensions}) AS d(type, id)
    WHERE e.due AND m.event = e.name AND m.member_id IS NOT NULL AND d.id IS NOT NULL
), expected AS (
    SELECT
        d.type AS dimension_type, d.id AS dimension_id, m.metric, sum(e.n) AS n,
        sum(CASE WHEN m.adds_time THEN e.value_us ELSE 0 END) * 0.000001 AS total,
        sum(CASE WHEN m.adds_time THEN e.business_us ELSE 0 END) * 0.000001 AS business
    FROM cell AS e
    JOIN (VALUES {metrics}) AS m(event, metric, adds_time) ON m.event = e.name
    CROSS JOIN LATERAL (VALUES {dimensions}) AS d(type, id)
    WHERE d.id IS NOT NULL
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT dimension_type, dimension_id, metric, count(*), 0, 0 FROM expected_member GROUP BY 1, 2, 3
), found AS (
    SELECT
        dimension_type, dimension_id, metric, count AS n, sum_value AS total, sum_value_business_hours AS business
    FROM reporting_events_rollups WHERE account_id = %(account)s AND date = %(date)s
), found_member AS (
    SELECT dimension_type, dimension_id, metric, member_id
    FROM rollup_members WHERE account_id = %(account)s AND date = %(date)s
), difference AS (
    SELECT
        dimension_type, dimension_id, metric, NULL::bigint AS member_id,
        e.n AS expected_n, e.total AS expected_total, e.business AS expected_business,
        f.n AS found_n, f.total AS found_total, f.business AS found_business,
        f.n IS NULL OR f.n <= coalesce(e.n, 0)
        OR f.n > coalesce(e.n, 0) + (SELECT greatest(day.events - tally.due, 0) FROM day, tally) AS certain
    FROM expected AS e
    FULL JOIN found AS f USING (dimension_type, dimension_id, metric)
    WHERE (e.n, e.total, e.business) IS DISTINCT FROM (f.n, f.total, f.business)
    UNION ALL
    SELECT
        dimension_type, dimension_id, metric, member_id,
        CASE WHEN e.is THEN 1 END, CASE WHEN e.is THEN 0 END, CASE WHEN e.is THEN 0 END,
        CASE WHEN f.is THEN 1 END, CASE WHEN f.is THEN 0 END, CASE WHEN f.is THEN 0 END,
        f.is IS NULL
    FROM (SELECT *, true AS is FROM expected_member) AS e
    FULL JOIN (SELECT *, true AS is FROM found_member) AS f USING (dimension_type, dimension_id, metric, member_id)
    WHERE (e.is IS NULL OR f.is IS NULL) AND (SELECT closed IS NOT TRUE FROM day)
)
SELECT
    day.zone, day.known, day.timezone, day.closed, day.events, day.registry, day.stale,
    tally.raw, tally.due, tally.invalid, coalesce(shown.differing, 0), coalesce(shown.differing_for_certain, 0),
    shown.certain, shown.dimension_type, shown.dimension_id, shown.metric, shown.member_id,
    shown.expected_n::bigint, shown.expected_total, shown.expected_business,
    shown.found_n::bigint, shown.found_total, shown.found_business
FROM day
CROSS JOIN tally
LEFT JOIN (
    SELECT *, count(*) OVER () AS differing, count(*) FILTER (WHERE certain) OVER () AS differing_for_certain
    FROM difference
    ORDER BY certain DESC, dimension_type, dimension_id, metric, member_id NULLS FIRST
    LIMIT %(limit)s
) AS shown ON true;

-- name: unsettled_dates
-- Days that are not closed, and dates of rows and members that belong to no day.
SELECT date FROM rollup_days WHERE account_id = %(account)s AND NOT closed
UNION
SELECT kept.date
FROM (
    SELECT DISTINCT date FROM reporting_events_rollups WHERE account_id = %(account)s
    UNION
    SELECT DISTINCT date FROM rollup_members WHERE account_id = %(account)s
) AS kept
WHERE NOT EXISTS (SELECT FROM rollup_days AS d WHERE d.account_id = %(account)s AND d.date = kept.date);
