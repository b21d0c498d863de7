"""Every setting: name, default, unit, meaning and check, in one table that code, errors and docs follow.

Settings come from environment variables alone, named as the fields in capitals. To add one, add a field to
`Settings` (or to `DatabaseSettings`, if the backfill needs it too) and write docs/configuration.md anew:
`python -m consumer.settings_page > docs/configuration.md`. A wrong value is a `ConfigurationError` of one line.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from consumer import kafka_properties, setting_values
from consumer.environment import EnvironmentSettings, setting
from consumer.flood import Limits
from consumer.handlers import HANDLER_NAMES
from consumer.logs import HIDDEN, redact
from consumer.setting_values import TopicHandler


class DatabaseSettings(EnvironmentSettings):
    """What every command needs: the consumer, and the backfill."""

    database_url: Annotated[str, AfterValidator(setting_values.database_url)] = setting(
        "postgresql://postgres@127.0.0.1:5432/postgres",
        "The PostgreSQL database that holds accounts' settings, raw events and rollups.",
        allowed="a PostgreSQL connection URI (postgresql://user:password@host:5432/database?sslmode=verify-full) "
        "or key=value string",
        secret=True,
    )
    db_statement_timeout_seconds: int = setting(
        60,
        "A statement that takes longer is cancelled, and its transaction tried again.",
        unit="seconds",
        between=(1, 3600),
    )
    open_days: int = setting(
        3,
        "How many local days, today's included, are counted live. Events of older days wait for a rebuild.",
        unit="days",
        between=(1, 60),
    )
    dead_letter_retention_days: int = setting(
        90,
        "How long dead letters are kept after they were replayed or discarded; 0 keeps them for ever. Letters that "
        "wait are kept until somebody decides.",
        unit="days",
        between=(0, 36_500),
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "The least important lines that are written; debug has a line for every transaction."
    )
    log_format: Literal["json", "console"] = setting(
        "json", "`json` for machines, one object a line; `console` for a person at a terminal."
    )


class WatchSettings(DatabaseSettings):
    """What `python -m backfill --stale --watch` needs beside the database."""

    metrics_port: int = setting(
        9109,
        "As the consumer's; another default, so that both can run on one machine.",
        between=(0, 65_535),
    )
    metrics_address: Annotated[str, AfterValidator(setting_values.address)] = setting(
        "0.0.0.0",  # noqa: S104 - probes and scrapes come from outside the container
        "Address that METRICS_PORT is opened on.",
        allowed="an IPv4 or IPv6 address",
    )


class Settings(DatabaseSettings):
    """Everything that the consumer can be told."""

    kafka_bootstrap_servers: Annotated[str, AfterValidator(setting_values.servers)] = setting(
        "127.0.0.1:9092",
        "Brokers to ask for the rest of the cluster.",
        allowed="host:port (9092 without one), separated by commas",
    )
    kafka_topics: Annotated[tuple[TopicHandler, ...], BeforeValidator(setting_values.topics)] = setting(
        "reporting_events",
        "The topics to consume, and what their messages are: `json` for raw rows as objects, the default.",
        allowed=f"topic or topic:handler, separated by commas, each topic once; handlers: {', '.join(HANDLER_NAMES)}",
    )
    kafka_group_id: Annotated[str, AfterValidator(setting_values.group)] = setting(
        "reporting-rollup",
        "The consumer group, and the name under which offsets are stored. A new name starts from the beginning of "
        "the topics (events counted before are recognised).",
        allowed="1 to 255 visible ASCII characters without spaces",
    )
    kafka_overrides: dict[str, str] = Field(default_factory=dict)
    """Further librdkafka properties by name; never shown unless `describe` hides the secrets."""

    on_offset_gap: Literal["stop", "reset"] = setting(
        "stop",
        "When a stored offset is no longer in the topic (retention, topic re-created): `stop` with an error, or "
        "`reset` to what is left and say which events to verify.",
    )
    dead_letter_max_ratio: Annotated[float, AfterValidator(setting_values.share)] = setting(
        0.1,
        "When more than this share of a partition's last DEAD_LETTER_WINDOW messages cannot be events, the consumer "
        "stops before the first that is too many (exit code 6); 1 sets no limit.",
        allowed="a number from 0 to 1",
    )
    dead_letter_window: int = setting(
        1_000,
        "How many messages of a partition DEAD_LETTER_MAX_RATIO looks at.",
        unit="messages",
        between=(1, 100_000),
    )
    dead_letter_max_consecutive: int = setting(
        100,
        "When more than this many messages of a partition in a row cannot be events, the consumer stops before the "
        "first that is too many (exit code 6); 0 sets no limit.",
        unit="messages",
        between=(0, 100_000),
    )
    batch_max_events: int = setting(
        400_000,
        "The most events in one transaction. Only reached under lag; memory grows by about 70 bytes an event.",
        unit="events",
        between=(1, 5_000_000),
    )
    fetch_max_events: int = setting(
        20_000,
        "The most messages decoded at once, never more than BATCH_MAX_EVENTS. Memory holds a few of these as "
        "messages, 3 kB each.",
        unit="messages",
        between=(1, 500_000),
    )
    batch_max_wait_ms: int = setting(
        100,
        "When caught up, how long events wait for others to share a transaction: freshness against load.",
        unit="milliseconds",
        between=(0, 10_000),
    )
    metrics_port: int = setting(
        9108,
        "Port of /metrics, /livez, /readyz, /startupz and /status; 0 takes any free one and logs it.",
        between=(0, 65_535),
    )
    metrics_address: Annotated[str, AfterValidator(setting_values.address)] = setting(
        "0.0.0.0",  # noqa: S104 - probes and scrapes come from outside the container
        "Address that METRICS_PORT is opened on.",
        allowed="an IPv4 or IPv6 address",
    )
    shutdown_timeout_seconds: int = setting(
        10,
        "After SIGTERM, how long the batch in flight may take to commit before it is given up (and read again later).",
        unit="seconds",
        between=(1, 300),
    )

    @field_validator("fetch_max_events")
    @classmethod
    def _chunk_fits_batch(cls, value: int, info: ValidationInfo) -> int:
        batch: int = info.data.get("batch_max_events", value)
        return min(value, batch)

    @field_validator("kafka_overrides")
    @classmethod
    def _exact(cls, value: dict[str, str]) -> dict[str, str]:
        if lines := list(kafka_properties.problems(value)):
            raise ValueError("\n".join(lines))
        return value

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> dict[str, Any]:
        return super().read(environ) | {"kafka_overrides": kafka_properties.from_environment(environ)}

    @property
    def dead_letter_limits(self) -> Limits:
        """When too many messages are bad."""
        return Limits(self.dead_letter_max_ratio, self.dead_letter_window, self.dead_letter_max_consecutive)

    @property
    def max_poll_interval_seconds(self) -> float:
        """How long the loop may go without polling before the group drops this member."""
        ms = self.kafka_overrides.get("max.poll.interval.ms", kafka_properties.MAX_POLL_INTERVAL_MS)
        return int(ms) / 1000

    def kafka_properties(self) -> dict[str, str | int]:
        """A new dictionary of properties for librdkafka, secrets included. See `consumer.kafka_properties`."""
        ours = {"bootstrap.servers": self.kafka_bootstrap_servers, "group.id": self.kafka_group_id}
        return kafka_properties.merged(self.kafka_overrides) | ours

    def describe(self) -> dict[str, str | int]:
        """As in `EnvironmentSettings`, with the librdkafka properties that the operator set."""
        shown = super().describe()
        shown["KAFKA_TOPICS"] = ",".join(f"{t.topic}:{t.handler}" for t in self.kafka_topics)
        for name, value in self.kafka_overrides.items():
            shown[kafka_properties.variable_of(name)] = HIDDEN if kafka_properties.is_secret(name) else redact(value)
        return shown
