-- Functions that run with their owner's rights look where our tables are and nowhere else: not in a schema that is named
-- like their owner, which whoever may create schemas could make. Rows that a policy hides are an error, not unseen.

-- migrate:up
-- A transaction writes a day twice, so a row has three versions until it ends and two more of the next. With room for them
-- on its own page, none goes to another one, and their space is used again at once.
ALTER TABLE rollup_days SET (fillfactor = 20);

DO $$
DECLARE
    path text;
    function regprocedure;
BEGIN
    -- The application's settings may be in a schema of its own.
    -- (A regnamespace has the quotes that its name needs.)
    SELECT string_agg(DISTINCT relnamespace::regnamespace::text, ', ') || ', pg_temp' INTO path
    FROM pg_class WHERE oid IN ('rollup_control'::regclass, 'account_settings'::regclass);
    FOR function IN
        SELECT p.oid FROM pg_proc AS p JOIN pg_class AS c ON c.relnamespace = p.pronamespace
        WHERE c.oid = 'rollup_control'::regclass AND p.proname IN (
            'rollup_check_timezone', 'rollup_lock_settings', 'rollup_prune_dead_letters',
            'rollup_renew_settings_version', 'rollup_settings_truncated', 'rollup_timezone_changed'
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %s', function, path);
        EXECUTE format('ALTER FUNCTION %s SET row_security = off', function);
    END LOOP;
END
$$;

-- migrate:down
ALTER TABLE rollup_days SET (fillfactor = 50);
SELECT set_config('search_path', current_setting('search_path') || ', pg_temp', true);
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT p.oid FROM pg_proc AS p JOIN pg_class AS c ON c.relnamespace = p.pronamespace
        WHERE c.oid = 'rollup_control'::regclass AND p.proname IN (
            'rollup_check_timezone', 'rollup_lock_settings', 'rollup_prune_dead_letters',
            'rollup_renew_settings_version', 'rollup_settings_truncated', 'rollup_timezone_changed'
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path FROM CURRENT', function);
        EXECUTE format('ALTER FUNCTION %s RESET row_security', function);
    END LOOP;
END
$$;
