-- The tables of the rollup, the raw events and account settings where the application does not have them already,
-- and the triggers that keep days right when an account's time zone changes, whoever changes it.

-- migrate:up

-- Raw events. The application usually owns this table; it is created only where it is absent.
DO $$
BEGIN
    IF to_regclass('reporting_events') IS NULL THEN
        CREATE TABLE reporting_events (
            id bigint PRIMARY KEY,
            name text NOT NULL,
            value double precision,
            value_in_business_hours double precision,
            account_id integer NOT NULL,
            inbox_id integer,
            user_id integer,
            conversation_id integer,
            event_start_time timestamp,
            event_end_time timestamp,
            created_at timestamp NOT NULL,
            updated_at timestamp NOT NULL
        );
        CREATE INDEX reporting_events_account_id_name_created_at ON reporting_events (account_id, name, created_at);
        CREATE INDEX reporting_events_created_at ON reporting_events (created_at);
        COMMENT ON TABLE reporting_events IS 'raw reporting events; created by reporting-rollup';
    END IF;
END
$$;

CREATE TABLE iana_timezones (name text COLLATE "C" PRIMARY KEY);
COMMENT ON TABLE iana_timezones IS 'names of the pinned tzdata; what account_settings.reporting_timezone may be';

-- Account settings. reporting_timezone switches an account's rollup on; reporting_events_rollup is for readers only.
DO $$
BEGIN
    IF to_regclass('account_settings') IS NULL THEN
        CREATE TABLE account_settings (account_id integer PRIMARY KEY);
        COMMENT ON TABLE account_settings IS 'settings of an account; created by reporting-rollup';
    END IF;
END
$$;
ALTER TABLE account_settings
    ADD COLUMN IF NOT EXISTS reporting_timezone text,
    ADD COLUMN IF NOT EXISTS reporting_events_rollup boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS rollup_since timestamptz;
-- Accounts that had a time zone before are switched on now: their first days have events that nobody counted.
UPDATE account_settings SET rollup_since = now() WHERE reporting_timezone IS NOT NULL;
COMMENT ON COLUMN account_settings.reporting_timezone IS 'IANA name; days are cut in it; null: no rollup';
COMMENT ON COLUMN account_settings.reporting_events_rollup IS 'feature flag for readers; never gates writing';
COMMENT ON COLUMN account_settings.rollup_since IS 'when the rollup was last switched on; set by a trigger';

-- One row of things all processes must agree on.
CREATE TABLE rollup_control (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    settings_version bigint NOT NULL DEFAULT 1,
    changed_by xid8,
    settle_seconds integer NOT NULL DEFAULT 60 CHECK (settle_seconds >= 0),
    needs_code integer NOT NULL DEFAULT 1
);
INSERT INTO rollup_control DEFAULT VALUES;
COMMENT ON COLUMN rollup_control.settings_version IS
    'changes with every reporting_timezone; microseconds since 1970, so that no number comes twice, even after a failover';
COMMENT ON COLUMN rollup_control.changed_by IS 'the transaction that raised settings_version last: once for all its rows';
COMMENT ON COLUMN rollup_control.settle_seconds IS
    'how long after a change of time zone raw rows of messages read before it may still be on their way';
COMMENT ON COLUMN rollup_control.needs_code IS 'raised by contract migrations: older programs must not run';

-- The rollup. Every extra index costs upsert speed: the primary key only; half-full pages keep updates in their page.
CREATE TABLE reporting_events_rollups (
    account_id integer NOT NULL,
    date date NOT NULL,
    dimension_type text COLLATE "C" NOT NULL,
    dimension_id bigint NOT NULL,
    metric text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    sum_value numeric NOT NULL,
    sum_value_business_hours numeric NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, date, dimension_type, dimension_id, metric)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON TABLE reporting_events_rollups IS 'daily totals; sums are seconds, exact to the microsecond';

CREATE TABLE rollup_days (
    account_id integer NOT NULL,
    date date NOT NULL,
    timezone text NOT NULL,
    closed boolean NOT NULL DEFAULT false,
    stale_since timestamptz,
    settles_at timestamptz,
    events bigint DEFAULT 0 CHECK (events >= 0),
    registry text,
    rebuilt_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, date)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX rollup_days_stale ON rollup_days (stale_since) WHERE stale_since IS NOT NULL;
COMMENT ON TABLE rollup_days IS 'one row per account and local day; its row lock orders all that touches the day';
COMMENT ON COLUMN rollup_days.closed IS 'a closed day is never counted live, only rebuilt from raw events';
COMMENT ON COLUMN rollup_days.stale_since IS 'since when the rollup is known to be behind the raw events';
COMMENT ON COLUMN rollup_days.settles_at IS 'a rebuild before this instant leaves the day stale';
COMMENT ON COLUMN rollup_days.events IS 'event ids counted for the day; null: unknown, only rebuilt, never counted live';

CREATE TABLE counted_events (
    chunk bigint NOT NULL,
    shard integer NOT NULL,
    bits bytea NOT NULL,
    last_day date NOT NULL,
    PRIMARY KEY (chunk, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON TABLE counted_events IS
    'which event ids were counted: bit (id % 4096), lowest bit of a byte first, of chunk floor(id / 4096); shorter '
    'bytes are zero-padded; shard 0 is written by rebuilds, others by the partition of consumer_offsets.shard';

CREATE TABLE rollup_members (
    account_id integer NOT NULL,
    date date NOT NULL,
    dimension_type text COLLATE "C" NOT NULL,
    dimension_id bigint NOT NULL,
    metric text COLLATE "C" NOT NULL,
    member_id bigint NOT NULL,
    PRIMARY KEY (account_id, date, dimension_type, dimension_id, metric, member_id)
);
COMMENT ON TABLE rollup_members IS 'the members behind distinct counts';

CREATE TABLE late_events (
    account_id integer NOT NULL,
    date date NOT NULL,
    event_id bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, date, event_id)
);
COMMENT ON TABLE late_events IS 'events that were read for a day which is not counted live; a rebuild removes them';

CREATE TABLE consumer_offsets (
    group_id text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    topic_id text NOT NULL,
    shard integer NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    messages bigint NOT NULL DEFAULT 0,
    counted bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    late bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, topic, partition),
    CONSTRAINT every_message_has_one_outcome CHECK (messages = counted + duplicates + late + skipped + dead)
) WITH (fillfactor = 50);
COMMENT ON TABLE consumer_offsets IS 'the next offset to read, moved in the transaction that counts what came before';

CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id text NOT NULL,
    topic text NOT NULL,
    topic_id text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL DEFAULT '[]',
    message_timestamp timestamptz,
    error_class text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT dead_letters_once UNIQUE (group_id, topic, topic_id, partition, "offset")
);
COMMENT ON TABLE dead_letters IS 'messages that cannot be events, as they stood on the topic';
COMMENT ON COLUMN dead_letters.headers IS 'list of [name, value in base64 or null]';

-- What a reader of a report may rely on, per day. A day without a row never had an event and was never rebuilt.
CREATE VIEW rollup_coverage AS
SELECT
    d.account_id,
    d.date,
    d.timezone,
    CASE
        WHEN s.reporting_timezone IS NULL THEN 'not covered'
        WHEN d.events IS NULL OR d.timezone <> s.reporting_timezone THEN 'settling'
        WHEN d.stale_since IS NOT NULL THEN 'stale'
        WHEN d.closed THEN 'closed'
        ELSE 'open'
    END AS state,
    d.events,
    greatest(d.updated_at, d.rebuilt_at) AS as_of
FROM rollup_days AS d
LEFT JOIN account_settings AS s USING (account_id);
COMMENT ON VIEW rollup_coverage IS
    'open: counted live, provisional; closed: audited; stale: behind its raw events; settling: its time zone changed';

-- The functions below keep the present search_path. Some run with their owner's rights, so temporary tables of whoever
-- calls them must not come first, as they do unless named.
SELECT set_config('search_path', current_setting('search_path') || ', pg_temp', true);

-- A time zone that is not IANA cannot be stored.
CREATE FUNCTION rollup_check_timezone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    near text;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.account_id <> OLD.account_id THEN
        RAISE EXCEPTION 'account %: its account_id cannot become %', OLD.account_id, NEW.account_id
            USING ERRCODE = 'check_violation', HINT = 'Delete the row and insert one for the other account.';
    END IF;
    IF NEW.reporting_timezone IS NULL
       OR EXISTS (SELECT FROM iana_timezones WHERE name = NEW.reporting_timezone) THEN
        RETURN NEW;
    END IF;
    SELECT string_agg(name, ', ' ORDER BY length(name)) INTO near
    FROM (
        SELECT name FROM iana_timezones
        WHERE lower(name) = lower(replace(trim(NEW.reporting_timezone), ' ', '_'))
           OR lower(name) LIKE '%' || lower(regexp_replace(replace(trim(NEW.reporting_timezone), ' ', '_'), '^.*/', ''))
        ORDER BY length(name) LIMIT 3
    ) AS candidates;
    RAISE EXCEPTION 'account %: % is not an IANA time zone',
        NEW.account_id, quote_literal(NEW.reporting_timezone)
        USING ERRCODE = 'check_violation',
              HINT = coalesce('Did you mean ' || near || '?', 'Names look like Europe/Paris; see table iana_timezones.');
END
$$;
CREATE TRIGGER rollup_check_timezone
    BEFORE INSERT OR UPDATE ON account_settings
    FOR EACH ROW EXECUTE FUNCTION rollup_check_timezone();

-- Wait until no consumer and no rebuild is in a transaction, and let none begin before this transaction ends. We stand in
-- their queue for two seconds at a time, longer than a transaction takes, so that they never wait behind us for longer.
CREATE FUNCTION rollup_lock_settings() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    lock_timeout text := current_setting('lock_timeout');
BEGIN
    FOR attempt IN 1..15 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '2s', true);
            PERFORM pg_advisory_xact_lock(hashtextextended('reporting-rollup settings', 0));
            PERFORM set_config('lock_timeout', lock_timeout, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.02 + random() * 0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'consumers or rebuilds kept the accounts'' settings locked for 30 s'
        USING ERRCODE = 'lock_not_available', HINT = 'Nothing was changed. Try again.';
END
$$;

-- Whoever aggregated with older settings aggregates again. Once a transaction, however many accounts it changes.
CREATE FUNCTION rollup_renew_settings_version() RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$
    UPDATE rollup_control SET
        settings_version = greatest(settings_version + 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint),
        changed_by = pg_current_xact_id()
    WHERE changed_by IS DISTINCT FROM pg_current_xact_id();
$$;

-- What a change of time zone does to the account's days. It runs at the end of the transaction (deferred), so that the
-- exclusive lock, which no consumer's transaction can overlap, is held for an instant however long the transaction
-- around it is.
-- Both triggers run with the rights of the migrations' owner: whoever may write account_settings needs no others.
CREATE FUNCTION rollup_timezone_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    account integer := CASE WHEN TG_OP = 'DELETE' THEN OLD.account_id ELSE NEW.account_id END;
    old_zone text := CASE WHEN TG_OP <> 'INSERT' THEN OLD.reporting_timezone END;
    new_zone text := CASE WHEN TG_OP <> 'DELETE' THEN NEW.reporting_timezone END;
    settle interval;
    present timestamptz;
    today date;
    first_day date;
    last_day date;
    recount boolean;
BEGIN
    IF old_zone IS NOT DISTINCT FROM new_zone THEN
        RETURN NULL;
    END IF;
    -- Days that consumers commit while this transaction runs must be seen below.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'account %: a % transaction cannot change reporting_timezone',
            account, current_setting('transaction_isolation')
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Nothing was changed. Use a READ COMMITTED transaction: it sees the days counted meanwhile.';
    END IF;
    -- 1. Alone: consumers and rebuilds hold this lock shared in every transaction.
    PERFORM rollup_lock_settings();
    -- 2. Whoever aggregated with the old settings aggregates again.
    PERFORM rollup_renew_settings_version();
    SELECT make_interval(secs => settle_seconds) INTO settle FROM rollup_control;
    present := clock_timestamp();
    today := (present AT TIME ZONE 'UTC')::date;
    -- 3. Switched off: rows and days stay as they are.
    IF new_zone IS NULL THEN
        RETURN NULL;
    END IF;
    IF old_zone IS NULL THEN
        UPDATE account_settings SET rollup_since = present WHERE account_id = account;
    END IF;
    -- 4. The days to rebuild: in another zone every boundary moved, and what was counted is unknown; switched on, any
    -- day may have missed events while the account had no zone. Local dates of one instant differ by up to two: zones
    -- lie up to 26 hours apart.
    -- Days that this trigger made and nobody has touched (registry is null), and days known to be empty, widen nothing.
    SELECT old_zone IS NOT NULL OR coalesce(bool_or(timezone <> new_zone), false)
    INTO recount FROM rollup_days WHERE account_id = account;
    SELECT min(date), max(date) INTO first_day, last_day FROM (
        SELECT date FROM rollup_days
        WHERE account_id = account AND registry IS NOT NULL AND events IS DISTINCT FROM 0
        UNION ALL
        SELECT date FROM late_events WHERE account_id = account
    ) AS filled;
    UPDATE rollup_days SET
        stale_since = coalesce(stale_since, present),
        settles_at = present + settle,
        events = CASE WHEN recount THEN NULL ELSE events END,
        updated_at = present
    WHERE account_id = account;
    first_day := greatest(least(first_day, today) - 2, date '1999-12-30');
    last_day := least(greatest(last_day, today) + 2, today + 5);
    INSERT INTO rollup_days (account_id, date, timezone, stale_since, settles_at, events)
    SELECT account, first_day + n, new_zone, present, present + settle, CASE WHEN recount THEN NULL ELSE 0 END
    FROM generate_series(0, last_day - first_day) AS n
    ORDER BY n
    ON CONFLICT (account_id, date) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER rollup_timezone_changed
    AFTER INSERT OR DELETE OR UPDATE ON account_settings
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION rollup_timezone_changed();


CREATE FUNCTION rollup_settings_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM rollup_lock_settings();
    PERFORM rollup_renew_settings_version();
    RETURN NULL;
END
$$;
CREATE TRIGGER rollup_settings_truncated
    AFTER TRUNCATE ON account_settings FOR EACH STATEMENT EXECUTE FUNCTION rollup_settings_truncated();

-- migrate:down
DROP TRIGGER rollup_settings_truncated ON account_settings;
DROP TRIGGER rollup_timezone_changed ON account_settings;
DROP TRIGGER rollup_check_timezone ON account_settings;
DROP FUNCTION rollup_timezone_changed();
DROP FUNCTION rollup_check_timezone();
DROP FUNCTION rollup_settings_truncated();
DROP FUNCTION rollup_renew_settings_version();
DROP FUNCTION rollup_lock_settings();
DROP VIEW rollup_coverage;
DROP TABLE dead_letters, consumer_offsets, late_events, rollup_members, counted_events, rollup_days,
    reporting_events_rollups, rollup_control, iana_timezones;
-- The application's own tables stay, and so do raw rows: only what the forward step created goes.
ALTER TABLE account_settings DROP COLUMN rollup_since;
DO $$
DECLARE
    has_rows boolean;
BEGIN
    IF obj_description('account_settings'::regclass) LIKE '%created by reporting-rollup' THEN
        DROP TABLE account_settings;
    END IF;
    IF obj_description('reporting_events'::regclass) LIKE '%created by reporting-rollup' THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM reporting_events)' INTO has_rows;
        IF NOT has_rows THEN
            DROP TABLE reporting_events;
        END IF;
    END IF;
END
$$;
