-- Least-privilege roles: who may do what with the rollup's tables. docs/security.md says how they are used.
--
--     psql -v ON_ERROR_STOP=1 -f deploy/roles.sql "$DATABASE_URL"
--
-- Run it once before the first migration, which is then the owner's, and again after every release's migrations: by a
-- superuser, or by a role with CREATEROLE that is a member of the owner. Running it again changes nothing. None of the
-- roles can log in; logins are made members of one. Roles belong to the whole cluster: two services in one cluster need
-- other names.
--
-- A table that is not named below is nobody's but the owner's. A test compares all of this with a table of its own.

BEGIN;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[
        'reporting_owner', 'reporting_consumer', 'reporting_operator', 'reporting_backfill', 'reporting_auditor',
        'reporting_reader'
    ] LOOP
        IF to_regrole(role) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role);
    END LOOP;
    -- Batches and rebuilds are staged in temporary tables.
    EXECUTE format(
        'GRANT TEMPORARY ON DATABASE %I TO reporting_consumer, reporting_operator, '
        'reporting_backfill', current_database()
    );
    GRANT CREATE ON SCHEMA public TO reporting_owner;
    -- Functions that run with their owner's rights look names up in this schema.
    IF EXISTS (
        SELECT FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
        WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'
    ) THEN
        RAISE WARNING 'everybody may create objects in schema public of this database, as before PostgreSQL 15'
            USING HINT = 'Unless the application needs it: REVOKE CREATE ON SCHEMA public FROM PUBLIC';
    END IF;
END
$$;

DO $$
DECLARE
    ours text[] := ARRAY[
        'backfill_runs', 'consumer_offsets', 'counted_events', 'dead_letters', 'iana_timezones', 'late_events',
        'reporting_events_rollups', 'rollup_control', 'rollup_coverage', 'rollup_days', 'rollup_members',
        'schema_migrations'
    ];
    applications text[] := ARRAY['account_settings', 'reporting_events'];
    functions text[] := ARRAY[
        'rollup_check_timezone', 'rollup_lock_settings', 'rollup_prune_dead_letters', 'rollup_renew_settings_version',
        'rollup_settings_truncated', 'rollup_timezone_changed'
    ];
    roles text := 'reporting_consumer, reporting_operator, reporting_backfill, '
        'reporting_auditor, reporting_reader';
    thing record;
BEGIN
    IF to_regclass('schema_migrations') IS NULL OR to_regclass('rollup_days') IS NULL THEN
        RAISE NOTICE 'the roles are there, the tables are not: apply the migrations as %, and run this again',
            'a member of reporting_owner';
        RETURN;
    END IF;

    FOR thing IN
        SELECT c.oid::regclass AS name, c.relname = ANY(ours) AS is_ours, c.relowner,
            obj_description(c.oid, 'pg_class') LIKE '%created by reporting-rollup' AS made_here
        FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(ours || applications)
    LOOP
        -- What runs with its owner's rights shall not run with a superuser's. The application's own two tables stay
        -- whose they are, unless a migration made them.
        IF (thing.is_ours OR thing.made_here) AND thing.relowner <> 'reporting_owner'::regrole THEN
            EXECUTE format('ALTER TABLE %s OWNER TO reporting_owner', thing.name);
        END IF;
        -- What an earlier version of this file granted goes first; nobody sees the moment between.
        EXECUTE format('REVOKE ALL ON %s FROM %s', thing.name, roles);
    END LOOP;
    FOR thing IN
        SELECT p.oid::regprocedure AS name, p.proowner FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY(functions)
    LOOP
        IF thing.proowner <> 'reporting_owner'::regrole THEN
            EXECUTE format('ALTER FUNCTION %s OWNER TO reporting_owner', thing.name);
        END IF;
        -- A trigger fires whoever writes; only making one needs this right. With it, and a temporary table of the right
        -- columns, everybody could have these functions run with the owner's rights.
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', thing.name);
    END LOOP;

    -- The owner's triggers note when an account's rollup was switched on, whoever owns the table.
    GRANT SELECT, UPDATE ON account_settings TO reporting_owner;

    -- Everybody but readers: whether the schema fits, what all processes agree on, and accounts' time zones. The other
    -- columns of the application's table are none of our business.
    GRANT SELECT ON schema_migrations, rollup_control
    TO reporting_consumer, reporting_operator, reporting_backfill, reporting_auditor;
    GRANT SELECT (account_id, reporting_timezone, reporting_events_rollup, rollup_since) ON account_settings
    TO reporting_consumer, reporting_operator, reporting_backfill, reporting_auditor;

    -- The consumer adds: it can take nothing away, knows no raw event, and cannot read what is in a dead letter.
    GRANT SELECT, INSERT, UPDATE ON consumer_offsets, counted_events, reporting_events_rollups, rollup_days
    TO reporting_consumer;
    GRANT SELECT, INSERT ON rollup_members TO reporting_consumer;
    GRANT INSERT ON dead_letters, late_events TO reporting_consumer;
    GRANT SELECT (group_id, topic, topic_id, partition, "offset", error_class, replayed_at, discarded_at) ON dead_letters
    TO reporting_consumer;

    -- The operator of dead letters: a replay takes the consumer's steps; letters can be read and marked, and those that
    -- were dealt with long ago deleted.
    GRANT SELECT, INSERT, UPDATE ON consumer_offsets, counted_events, reporting_events_rollups, rollup_days
    TO reporting_operator;
    GRANT SELECT, INSERT ON rollup_members TO reporting_operator;
    GRANT INSERT ON late_events TO reporting_operator;
    GRANT SELECT ON dead_letters TO reporting_operator;
    GRANT EXECUTE ON FUNCTION rollup_prune_dead_letters TO reporting_operator;
    GRANT UPDATE (tried_at, error_class, reason, replayed_at, outcome, discarded_at, discard_reason) ON dead_letters
    TO reporting_operator;

    -- The backfill replaces days by what the raw events give, closes days, prunes, and changes time zones.
    GRANT EXECUTE ON FUNCTION rollup_prune_dead_letters TO reporting_backfill;
    GRANT SELECT ON reporting_events, consumer_offsets, dead_letters, rollup_coverage TO reporting_backfill;
    GRANT SELECT, INSERT, UPDATE ON rollup_days TO reporting_backfill;
    GRANT SELECT, INSERT, UPDATE, DELETE ON counted_events, reporting_events_rollups TO reporting_backfill;
    GRANT SELECT, INSERT, DELETE ON rollup_members TO reporting_backfill;
    GRANT SELECT, INSERT, DELETE ON late_events TO reporting_backfill;
    GRANT SELECT, INSERT, UPDATE (finished_at) ON backfill_runs TO reporting_backfill;
    GRANT INSERT (account_id, reporting_timezone), UPDATE (reporting_timezone) ON account_settings
    TO reporting_backfill;

    -- The auditor proves and explains, and changes nothing: verify, status, explain. It reads raw events and letters.
    GRANT SELECT ON backfill_runs, consumer_offsets, counted_events, dead_letters, late_events, reporting_events,
        reporting_events_rollups, rollup_coverage, rollup_days, rollup_members
    TO reporting_auditor;

    -- Readers of reports: totals, how far to trust which day, and which accounts have them.
    GRANT SELECT ON reporting_events_rollups, rollup_coverage TO reporting_reader;
    GRANT SELECT (account_id, reporting_timezone, reporting_events_rollup) ON account_settings
    TO reporting_reader;
END
$$;

COMMIT;
