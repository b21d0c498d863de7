-- What audits find, and runs of the backfill that can be taken up again.

-- migrate:up
ALTER TABLE rollup_days
    ADD COLUMN drift bigint NOT NULL DEFAULT 0 CHECK (drift >= 0),
    ADD COLUMN audited_at timestamptz;
COMMENT ON COLUMN rollup_days.drift IS 'rollup rows that audits of this day found wrong and corrected, ever';
COMMENT ON COLUMN rollup_days.audited_at IS 'when the day was last compared with its raw events before it closed';
-- Days that left the open window are looked for among those that are not closed.
CREATE INDEX rollup_days_open ON rollup_days (date) WHERE NOT closed;
-- Stale days of one date are rebuilt together, those of the date that waits longest first.
CREATE INDEX rollup_days_stale_by_date ON rollup_days (date, account_id) WHERE stale_since IS NOT NULL;

CREATE TABLE backfill_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    selection jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
COMMENT ON TABLE backfill_runs IS
    'runs of `python -m backfill`: --resume takes up the newest that is not finished, and leaves out days rebuilt since';

-- migrate:down
DROP TABLE backfill_runs;
DROP INDEX rollup_days_open;
DROP INDEX rollup_days_stale_by_date;
ALTER TABLE rollup_days DROP COLUMN drift, DROP COLUMN audited_at;
