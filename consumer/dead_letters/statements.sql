-- Statements of `python -m consumer dead-letters`.
-- Locks: a replay takes its letters first and passes over those that another holds, so that nobody ever waits for a
-- letter; the others follow in the order of consumer/rollup/statements.sql.

-- name: which
-- A part of the next statements: the letters that were asked for; null asks for any.
(%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s::bigint[]))
    AND (%(causes)s::text[] IS NULL OR error_class = ANY(%(causes)s::text[]))
    AND (%(groups)s::text[] IS NULL OR group_id = ANY(%(groups)s::text[]))
    AND (%(topics)s::text[] IS NULL OR topic = ANY(%(topics)s::text[]))
    AND (%(partitions)s::int[] IS NULL OR partition = ANY(%(partitions)s::int[]))
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s::timestamptz)
    AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s::timestamptz)
    AND CASE %(state)s::text
        WHEN 'waiting' THEN replayed_at IS NULL AND discarded_at IS NULL
        WHEN 'replayed' THEN replayed_at IS NOT NULL
        WHEN 'discarded' THEN discarded_at IS NOT NULL
        ELSE true
    END

-- name: pick
-- The next letters in the order they came, with the size of their values, and about the bytes of memory that all their
-- contents take up; many small headers take up ten times what they do here. How large headers are that lie here
-- compressed is known when they have been read, which takes long for large ones: these count as a whole portion.
SELECT
    id, group_id, topic, partition, "offset", coalesce(octet_length(value), 0),
    coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)
    + CASE WHEN pg_column_compression(headers) IS NULL THEN 10 * pg_column_size(headers) ELSE %(portion)s::int END
FROM dead_letters
WHERE id > %(after)s AND id <= %(last)s AND {which}
ORDER BY id LIMIT %(most)s;

-- name: newest_id
-- What comes while a command runs is left for the next time.
SELECT coalesce(max(id), 0) FROM dead_letters;

-- name: newest
SELECT
    id, group_id, topic, topic_id, partition, "offset", message_timestamp, created_at, error_class, reason,
    coalesce(octet_length(key), 0), coalesce(octet_length(value), 0),
    tried_at, replayed_at, outcome, discarded_at, discard_reason
FROM dead_letters
WHERE {which}
ORDER BY id DESC LIMIT %(most)s;

-- name: by_cause
SELECT error_class, count(*), min(created_at), max(created_at)
FROM dead_letters
WHERE {which}
GROUP BY error_class
ORDER BY count(*) DESC, error_class;

-- name: whole
SELECT
    id, group_id, topic, topic_id, partition, "offset", message_timestamp, created_at, error_class, reason,
    coalesce(octet_length(key), 0), coalesce(octet_length(value), 0),
    tried_at, replayed_at, outcome, discarded_at, discard_reason, key, value, headers
FROM dead_letters
WHERE id = ANY(%(ids)s)
ORDER BY id;

-- name: lock_waiting
-- Letters to replay, ours until the transaction ends; those that another replay holds are left to it.
SELECT id, partition, "offset", value
FROM dead_letters
WHERE id = ANY(%(ids)s) AND replayed_at IS NULL AND discarded_at IS NULL
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: ends
-- What became of letters that could not be locked.
SELECT id, partition, "offset", replayed_at, outcome, discarded_at, discard_reason
FROM dead_letters
WHERE id = ANY(%(ids)s)
ORDER BY id;

-- name: lock_balances
-- The partitions' rows as they stand, ours until the transaction ends: their balance moves, and the ids are claimed in
-- their shards. Offsets stay as they are.
SELECT partition, shard
FROM consumer_offsets
WHERE group_id = %(group_id)s AND topic = %(topic)s AND partition = ANY(%(partitions)s)
ORDER BY partition
FOR UPDATE;

-- name: wait_briefly
-- From here on we hold offsets, for which consumers wait: whoever makes us wait for longer has us try again later.
SELECT set_config('lock_timeout', %(lock)s, true), set_config('statement_timeout', %(statement)s, true);

-- name: move_balance
-- What was dead has another outcome now. A row that began anew since the letters were buried knows nothing of them.
UPDATE consumer_offsets AS o SET
    dead = o.dead - (b.counted + b.duplicates + b.late + b.skipped),
    counted = o.counted + b.counted,
    duplicates = o.duplicates + b.duplicates,
    late = o.late + b.late,
    skipped = o.skipped + b.skipped
FROM unnest(
    %(partitions)s::int[], %(counted)s::bigint[], %(duplicates)s::bigint[], %(late)s::bigint[], %(skipped)s::bigint[]
) AS b(partition, counted, duplicates, late, skipped)
WHERE o.group_id = %(group_id)s AND o.topic = %(topic)s AND o.partition = b.partition
    AND o.dead >= b.counted + b.duplicates + b.late + b.skipped;

-- name: mark_replayed
UPDATE dead_letters AS d SET replayed_at = now(), outcome = b.outcome
FROM unnest(%(ids)s::bigint[], %(outcomes)s::text[]) AS b(id, outcome)
WHERE d.id = b.id;

-- name: mark_tried
-- Still no event; perhaps for another reason than before.
UPDATE dead_letters AS d SET tried_at = now(), error_class = b.error_class, reason = b.reason
FROM unnest(%(ids)s::bigint[], %(causes)s::text[], %(reasons)s::text[]) AS b(id, error_class, reason)
WHERE d.id = b.id;

-- name: discard
UPDATE dead_letters AS d SET discarded_at = now(), discard_reason = %(reason)s
FROM (
    SELECT id FROM dead_letters
    WHERE id = ANY(%(ids)s) AND replayed_at IS NULL AND discarded_at IS NULL
    ORDER BY id
    FOR UPDATE SKIP LOCKED
) AS ours
WHERE d.id = ours.id
RETURNING d.id;

-- name: prune
-- A portion of the letters that were dealt with long ago.
SELECT rollup_prune_dead_letters(%(days)s, %(most)s);

-- name: recent
-- Letters that wait and stood just before the offset that each partition starts at.
SELECT p.topic, p.partition, p.next - d."offset" AS distance, d.error_class
FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(topic_ids)s::text[], %(nexts)s::bigint[])
    AS p(topic, partition, topic_id, next)
JOIN dead_letters AS d
    ON d.group_id = %(group_id)s AND d.topic = p.topic AND d.topic_id = p.topic_id AND d.partition = p.partition
    AND d."offset" >= p.next - %(most)s AND d."offset" < p.next
WHERE d.replayed_at IS NULL AND d.discarded_at IS NULL
ORDER BY p.topic, p.partition, d."offset";
