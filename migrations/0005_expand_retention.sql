-- Letters that were dealt with long ago can be deleted by whoever may delete no others.

-- migrate:up
-- As in the first migration: temporary tables of whoever calls must not come first.
SELECT set_config('search_path', current_setting('search_path') || ', pg_temp', true);

CREATE FUNCTION rollup_prune_dead_letters(days integer, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    deleted bigint;
BEGIN
    IF days < 1 THEN
        RAISE EXCEPTION 'dead letters are kept for at least a day, not %', days USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM dead_letters AS d
    USING (
        SELECT id FROM dead_letters
        WHERE coalesce(replayed_at, discarded_at) < now() - make_interval(days => days)
        ORDER BY coalesce(replayed_at, discarded_at) LIMIT most
        FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE d.id = old.id;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
REVOKE ALL ON FUNCTION rollup_prune_dead_letters FROM PUBLIC;
COMMENT ON FUNCTION rollup_prune_dead_letters IS
    'delete up to `most` letters that were replayed or discarded more than `days` days ago; how many it were';

-- migrate:down
DROP FUNCTION rollup_prune_dead_letters;
