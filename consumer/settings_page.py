"""Writes docs/configuration.md from the tables that the program goes by: `python -m consumer.settings_page`."""

import sys

from consumer import kafka_properties
from consumer.logs import Event
from consumer.settings import DatabaseSettings, Settings, WatchSettings


def markdown() -> str:
    """The text of docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "<!-- Written by `python -m consumer.settings_page > docs/configuration.md`; change consumer/settings.py. -->",
        "",
        "Settings are environment variables. Each has a default that works on the local stack; a wrong value stops",
        "the program at once (exit code 2) with one line that names the variable, what was found and what is allowed.",
        "",
        "| Variable | Default | Unit | Allowed | Meaning |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| `{v.name}` | `{v.default}` | {v.unit} | {v.allowed} | {v.meaning} |" for v in Settings.variables()]
    shared = ", ".join(f"`{row.name}`" for row in DatabaseSettings.variables())
    watch_port = WatchSettings.model_fields["metrics_port"].default
    lines += [
        "",
        f"`python -m backfill` reads {shared}. With `--stale --watch` it serves metrics and probes, too: on",
        f"`METRICS_PORT`, {watch_port} if that is not set, and `METRICS_ADDRESS`.",
        "",
        "## Secrets",
        "",
        "`DATABASE_URL` can be read from a file instead: `DATABASE_URL_FILE` is its path. The same goes for secret",
        "librdkafka properties: `KAFKA_SASL_PASSWORD_FILE`, `KAFKA_SSL_KEY_PASSWORD_FILE`,",
        "`KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET_FILE` and so on. Secrets are in no log line, metric or error.",
        "",
        "## Any other librdkafka property",
        "",
        "`KAFKA_` and the property's name in capitals, with `_` for `.`: `KAFKA_SECURITY_PROTOCOL=SASL_SSL` sets",
        "`security.protocol`. `KAFKA_GROUP_PROTOCOL=consumer` turns on the rebalance protocol of KIP-848,",
        "`KAFKA_GROUP_INSTANCE_ID` static membership. Left alone are variables that Kubernetes adds beside a service",
        "called `kafka` (`KAFKA_PORT`, `KAFKA_SERVICE_HOST`, …) and those of Kafka's scripts (`KAFKA_HEAP_OPTS`, …).",
        "",
        "Set by us, and yours to change:",
        "",
        "| Property | Value | Why |",
        "|---|---|---|",
        *(f"| `{p.name}` | `{p.value}` | {p.why} |" for p in kafka_properties.DEFAULTS),
        "",
        "Set by us, and refused with any other value, because the counts would no longer be exact:",
        "",
        "| Property | Value | Why |",
        "|---|---|---|",
        *(f"| `{p.name}` | `{p.value}` | {p.why} |" for p in kafka_properties.FIXED),
        "",
        "With `group.protocol=consumer` the broker decides "
        + ", ".join(f"`{name}`" for name in kafka_properties.CLASSIC_ONLY)
        + ": setting them is refused.",
        "",
        "## Log lines",
        "",
        "One line an event of interest, on standard output: a fixed word in `event`, the facts in fields of their own",
        "(`topic`, `partition`, `offset`, …). Payloads and secrets are never logged.",
        "",
        "| Event | Meaning |",
        "|---|---|",
        *(f"| `{event}` | {event.meaning} |" for event in Event),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
