-- What became of a dead letter: it waits, was replayed, or was discarded.

-- migrate:up
ALTER TABLE dead_letters
    ADD COLUMN tried_at timestamptz,
    ADD COLUMN replayed_at timestamptz,
    ADD COLUMN outcome text COLLATE "C",
    ADD COLUMN discarded_at timestamptz,
    ADD COLUMN discard_reason text,
    ADD CONSTRAINT dead_letters_end_once CHECK (num_nonnulls(replayed_at, discarded_at) <= 1),
    ADD CONSTRAINT dead_letters_end_told CHECK (
        (replayed_at IS NULL) = (outcome IS NULL) AND (discarded_at IS NULL) = (discard_reason IS NULL)
    );
COMMENT ON TABLE dead_letters IS
    'messages that cannot be events, as they stood on the topic; one waits unless it was replayed or discarded';
COMMENT ON COLUMN dead_letters.tried_at IS 'when a replay last found that it still cannot be an event';
COMMENT ON COLUMN dead_letters.replayed_at IS 'when a replay passed it on, in the transaction that counted it';
COMMENT ON COLUMN dead_letters.outcome IS 'what the replay made of it: counted, duplicate, late or skipped';
COMMENT ON COLUMN dead_letters.discard_reason IS 'why somebody decided that it shall never be counted';
-- Lists and replays want those that wait, the retention those that do not: neither reads the others.
CREATE INDEX dead_letters_waiting ON dead_letters (id) WHERE replayed_at IS NULL AND discarded_at IS NULL;
CREATE INDEX dead_letters_done ON dead_letters (coalesce(replayed_at, discarded_at))
    WHERE coalesce(replayed_at, discarded_at) IS NOT NULL;

COMMENT ON TABLE counted_events IS
    'which event ids were counted: bit (id % 4096), lowest bit of a byte first, of chunk floor(id / 4096); shorter '
    'bytes are zero-padded; shard 0 is written by rebuilds, and by replays of dead letters whose partition is forgotten; '
    'others belong to the partition of consumer_offsets.shard';

-- migrate:down
COMMENT ON TABLE counted_events IS
    'which event ids were counted: bit (id % 4096), lowest bit of a byte first, of chunk floor(id / 4096); shorter '
    'bytes are zero-padded; shard 0 is written by rebuilds, others by the partition of consumer_offsets.shard';
COMMENT ON TABLE dead_letters IS 'messages that cannot be events, as they stood on the topic';
DROP INDEX dead_letters_waiting;
DROP INDEX dead_letters_done;
ALTER TABLE dead_letters
    DROP COLUMN tried_at, DROP COLUMN replayed_at, DROP COLUMN outcome, DROP COLUMN discarded_at,
    DROP COLUMN discard_reason;
