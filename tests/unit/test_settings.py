"""Settings: defaults, checks and their one-line errors, librdkafka properties, secrets, the page of docs."""

import logging
import re
from pathlib import Path

import confluent_kafka
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from pydantic import ValidationError

from consumer import kafka_properties, settings_page
from consumer.client import make_consumer
from consumer.errors import ConfigurationError
from consumer.setting_values import TopicHandler
from consumer.settings import DatabaseSettings, Settings

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def error_of(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ)
    return str(caught.value)


def test_an_empty_environment_gives_the_local_stack() -> None:
    s = Settings.load({})
    assert s == Settings()
    assert s.database_url == "postgresql://postgres@127.0.0.1:5432/postgres"
    assert s.kafka_bootstrap_servers == "127.0.0.1:9092"
    assert s.kafka_topics == (TopicHandler("reporting_events", "json"),)
    assert s.kafka_group_id == "reporting-rollup"
    assert (s.open_days, s.batch_max_events, s.fetch_max_events, s.batch_max_wait_ms) == (3, 400_000, 20_000, 100)
    assert (s.metrics_address, s.metrics_port, s.shutdown_timeout_seconds) == ("0.0.0.0", 9108, 10)  # noqa: S104
    assert (s.on_offset_gap, s.log_level, s.log_format) == ("stop", "info", "json")


def test_every_variable_is_read_under_its_name() -> None:
    given_values = {
        "DATABASE_URL": "host=db dbname=reports",
        "DB_STATEMENT_TIMEOUT_SECONDS": "61",
        "OPEN_DAYS": "4",
        "DEAD_LETTER_RETENTION_DAYS": "7",
        "DEAD_LETTER_MAX_RATIO": "0.25",
        "DEAD_LETTER_WINDOW": "200",
        "DEAD_LETTER_MAX_CONSECUTIVE": "0",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "console",
        "KAFKA_BOOTSTRAP_SERVERS": "a:1,[::1]:2",
        "KAFKA_TOPICS": "cdc:json",
        "KAFKA_GROUP_ID": "g",
        "ON_OFFSET_GAP": "reset",
        "BATCH_MAX_EVENTS": "7",
        "FETCH_MAX_EVENTS": "5",
        "BATCH_MAX_WAIT_MS": "0",
        "METRICS_PORT": "0",
        "METRICS_ADDRESS": "::1",
        "SHUTDOWN_TIMEOUT_SECONDS": "3",
    }
    assert {row.name for row in Settings.variables()} == set(given_values)
    described = {name: str(value) for name, value in Settings.load(given_values).describe().items()}
    assert described == given_values


def test_the_backfill_reads_its_own_share_and_ignores_the_rest() -> None:
    s = DatabaseSettings.load({"OPEN_DAYS": "5", "BATCH_MAX_EVENTS": "nonsense", "KAFKA_ENABLE_AUTO_COMMIT": "true"})
    assert s.open_days == 5
    assert not hasattr(s, "kafka_topics")


def test_settings_are_frozen_and_know_no_other_names() -> None:
    with pytest.raises(ValidationError):
        Settings().open_days = 4  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(open_day=4)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("OPEN_DAYS", "ninety", "OPEN_DAYS is wrong: found 'ninety'; allowed: a whole number from 1 to 60 (days)"),
        ("OPEN_DAYS", "0", "OPEN_DAYS is wrong: found '0'; allowed: a whole number from 1 to 60 (days)"),
        ("OPEN_DAYS", "61", "OPEN_DAYS is wrong: found '61'; allowed: a whole number from 1 to 60 (days)"),
        ("OPEN_DAYS", "", "OPEN_DAYS is wrong: found ''; allowed: a whole number from 1 to 60 (days)"),
        (
            "DEAD_LETTER_MAX_RATIO",
            "nan",
            "DEAD_LETTER_MAX_RATIO is wrong: it is no share; found 'nan'; allowed: a number",
        ),
        (
            "DEAD_LETTER_MAX_RATIO",
            "1.1",
            "DEAD_LETTER_MAX_RATIO is wrong: it is no share; found '1.1'; allowed: a number",
        ),
        ("DEAD_LETTER_MAX_RATIO", "10%", "DEAD_LETTER_MAX_RATIO is wrong: found '10%'; allowed: a number from 0 to 1"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT is wrong: found 'xml'; allowed: one of json, console"),
        ("ON_OFFSET_GAP", "skip", "ON_OFFSET_GAP is wrong: found 'skip'; allowed: one of stop, reset"),
        ("METRICS_PORT", "65536", "METRICS_PORT is wrong: found '65536'; allowed: a whole number from 0 to 65535"),
        (
            "METRICS_ADDRESS",
            "localhost",
            "METRICS_ADDRESS is wrong: names are not looked up; found 'localhost'; allowed: an IPv4 or IPv6 address",
        ),
        (
            "KAFKA_BOOTSTRAP_SERVERS",
            "a:9092,",
            "KAFKA_BOOTSTRAP_SERVERS is wrong: '' is not host:port; found 'a:9092,'; "
            "allowed: host:port (9092 without one), separated by commas",
        ),
        (
            "KAFKA_BOOTSTRAP_SERVERS",
            "a,b:70000",
            "KAFKA_BOOTSTRAP_SERVERS is wrong: 70000 is no port; found 'a,b:70000'",
        ),
        ("KAFKA_BOOTSTRAP_SERVERS", "[::1]:0", "KAFKA_BOOTSTRAP_SERVERS is wrong: 0 is no port; found '[::1]:0'"),
        (
            "KAFKA_GROUP_ID",
            "",
            "KAFKA_GROUP_ID is wrong: it is empty, too long or has spaces; found ''; "
            "allowed: 1 to 255 visible ASCII characters without spaces",
        ),
        ("KAFKA_TOPICS", "a,b:json,a:json", "KAFKA_TOPICS is wrong: topic 'a' is named twice; found"),
        ("KAFKA_TOPICS", "a:xml", "KAFKA_TOPICS is wrong: there is no handler 'xml'; found"),
        ("KAFKA_TOPICS", "a:", "KAFKA_TOPICS is wrong: there is no handler ''; found"),
        ("KAFKA_TOPICS", "^all.*", "KAFKA_TOPICS is wrong: '^all.*' cannot be the name of a topic; found"),
        ("KAFKA_TOPICS", "", "KAFKA_TOPICS is wrong: '' cannot be the name of a topic; found"),
    ],
)
def test_a_wrong_value_gives_one_line_with_what_was_found_and_what_is_allowed(
    variable: str, value: str, line: str
) -> None:
    message = error_of({variable: value})
    assert message.startswith(line)
    assert "\n" not in message
    assert "allowed: " in message


def test_each_wrong_variable_has_its_line() -> None:
    lines = error_of({"OPEN_DAYS": "x", "METRICS_PORT": "y", "KAFKA_ISOLATION_LEVEL": "read_uncommitted"}).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["KAFKA_ISOLATION_LEVEL", "METRICS_PORT", "OPEN_DAYS"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://app:hunter2@db/reports",
        "app:hunter2@db",
        "password=hunter2 nonsense",
        "postgresql://app:hunter2@db/reports\nhunter2",
    ],
)
def test_a_wrong_database_url_is_refused_without_showing_it(url: str) -> None:
    message = error_of({"DATABASE_URL": url})
    assert message.startswith("DATABASE_URL is wrong: ")
    assert "a value that is not shown" in message
    assert "hunter2" not in message
    assert "\n" not in message


def test_topics_pick_their_handlers() -> None:
    s = Settings.load({"KAFKA_TOPICS": "events, app.cdc:json,events_1"})
    assert s.kafka_topics == (("events", "json"), ("app.cdc", "json"), ("events_1", "json"))


def test_a_small_batch_makes_small_chunks() -> None:
    assert Settings(batch_max_events=50).fetch_max_events == 50
    assert Settings(batch_max_events=50, fetch_max_events=20).fetch_max_events == 20


# librdkafka properties


def test_librdkafka_takes_what_it_is_given() -> None:
    for environ in ({}, {"KAFKA_GROUP_PROTOCOL": "consumer"}):
        confluent_kafka.Consumer(Settings.load(environ).kafka_properties()).close()


def test_a_property_is_spelt_with_dots_and_overrides_ours() -> None:
    properties = Settings.load(
        {"KAFKA_FETCH_WAIT_MAX_MS": "7", "KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_GROUP_ID": "g", "PATH": "/bin"}
    ).kafka_properties()
    assert properties["fetch.wait.max.ms"] == "7"
    assert properties["security.protocol"] == "SSL"
    assert properties["group.id"] == "g"
    assert properties["bootstrap.servers"] == "127.0.0.1:9092"
    assert "topics" not in properties
    assert "path" not in properties


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAFKA_ENABLE_AUTO_COMMIT", "true"),
        ("KAFKA_ENABLE_AUTO_OFFSET_STORE", "1"),
        ("KAFKA_ISOLATION_LEVEL", "read_uncommitted"),
        ("KAFKA_ENABLE_PARTITION_EOF", "false"),
        ("KAFKA_ENABLE_PARTITION_EOF", "0"),
        ("KAFKA_AUTO_OFFSET_RESET", "latest"),
        ("KAFKA_AUTO_OFFSET_RESET", "earliest"),
        ("KAFKA_METADATA_BROKER_LIST", "other:9092"),
        ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "cooperative-sticky,range"),
        ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "sticky"),
        ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "range"),
        ("KAFKA_GROUP_PROTOCOL", "share"),
        ("KAFKA_MAX_POLL_INTERVAL_MS", "soon"),
    ],
)
def test_a_property_that_breaks_the_promise_is_refused_with_a_reason(variable: str, value: str) -> None:
    message = error_of({variable: value})
    assert message.startswith(f"{variable} is wrong: found {value!r}; allowed: ")
    assert "\n" not in message


def test_saying_what_is_fixed_anyway_is_no_error() -> None:
    environ = {kafka_properties.variable_of(p.name): str(p.value).upper() for p in kafka_properties.FIXED}
    assert Settings.load(environ | {"KAFKA_ENABLE_AUTO_COMMIT": "f", "KAFKA_ENABLE_PARTITION_EOF": "1"}).kafka_overrides


@pytest.mark.parametrize("name", kafka_properties.CLASSIC_ONLY)
def test_the_new_group_protocol_leaves_to_the_broker_what_is_the_brokers(name: str) -> None:
    variable = kafka_properties.variable_of(name)
    assert name not in Settings.load({"KAFKA_GROUP_PROTOCOL": "Consumer"}).kafka_properties()
    message = error_of({"KAFKA_GROUP_PROTOCOL": "consumer", variable: "1"})
    assert message.startswith(f"{variable} is wrong")
    assert "KAFKA_GROUP_PROTOCOL=consumer" in message


def test_the_poll_interval_is_known_to_the_liveness_probe() -> None:
    assert Settings().max_poll_interval_seconds == 300
    assert Settings.load({"KAFKA_MAX_POLL_INTERVAL_MS": "60000"}).max_poll_interval_seconds == 60


@pytest.mark.parametrize(
    "variable",
    [
        "KAFKA_PORT",
        "KAFKA_SERVICE_HOST",
        "KAFKA_SERVICE_PORT_PLAINTEXT",
        "KAFKA_PORT_9092_TCP_ADDR",
        "KAFKA_BROKER_SERVICE_HOST",
        "KAFKA_BROKER_PORT_9092_TCP",
        "KAFKA_HEAP_OPTS",
        "KAFKA_HOME",
    ],
)
def test_variables_of_kubernetes_and_of_kafkas_scripts_are_left_alone(variable: str) -> None:
    assert Settings.load({variable: "tcp://10.0.0.1:9092"}).kafka_overrides == {}


def test_no_property_of_librdkafka_is_taken_for_somebody_elses() -> None:
    for name in ("sasl.kerberos.service.name", "client.id", "group.instance.id", "ssl.ca.location", "debug"):
        assert kafka_properties.from_environment({kafka_properties.variable_of(name): "x"}) == {name: "x"}


# Secrets


def test_secrets_can_come_from_files(tmp_path: Path) -> None:
    url, password = tmp_path / "url", tmp_path / "password"
    url.write_text("postgresql://u:hunter2@db/reports\n")
    password.write_text("hunter3\r\n")
    s = Settings.load(
        {
            "DATABASE_URL_FILE": str(url),
            "KAFKA_SASL_PASSWORD_FILE": str(password),
            "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE": "/keys/k.pem",
        }
    )
    assert s.database_url == "postgresql://u:hunter2@db/reports"
    assert s.kafka_properties()["sasl.password"] == "hunter3"
    # A property of librdkafka whose own name ends so; its value is a path.
    assert s.kafka_properties()["sasl.oauthbearer.assertion.private.key.file"] == "/keys/k.pem"


@pytest.mark.parametrize("variable", ["DATABASE_URL", "KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD"])
def test_a_secret_given_twice_or_in_a_missing_file_is_an_error(variable: str, tmp_path: Path) -> None:
    in_file = f"{variable}_FILE"
    path = str(tmp_path / "absent")
    assert error_of({variable: "x", in_file: path}) == f"{variable} and {in_file} are both set; keep one of them"
    assert error_of({in_file: path}) == (
        f"{in_file} is wrong: cannot read {path!r} (No such file or directory); "
        "allowed: the path of a readable text file"
    )


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "it is not UTF-8 text" in error_of({"DATABASE_URL_FILE": str(tmp_path / "binary")})


# Q and J occur in nothing that is shown anyway.
passwords = st.text(alphabet="QJ '\"\\,;&@/%\n", min_size=1, max_size=12).filter(lambda p: re.search("[QJ]", p))


@given(passwords)
def test_no_password_is_shown(password: str) -> None:
    quoted = "".join(letter if letter in "QJ" else f"%{ord(letter):02x}" for letter in password)
    for url in (make_conninfo(host="db", password=password, user="app"), f"postgresql://app:{quoted}@db/reports"):
        s = Settings(database_url=url, kafka_overrides={"sasl.password": password, "sasl.username": "me"})
        for text in (repr(s), str(s), str(s.describe())):
            assert not re.search("[QJ]", text)
            assert "app" in text
        assert s.describe()["KAFKA_SASL_PASSWORD"] == "***"
        assert s.describe()["KAFKA_SASL_USERNAME"] == "me"


def test_sasl_needs_a_mechanism() -> None:
    message = error_of({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"})
    assert message.startswith("KAFKA_SASL_MECHANISM is not set")
    Settings.load({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN"})


# Near misses, docs


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("OPEN_DAY", "OPEN_DAYS"),
        ("METRIC_PORT", "METRICS_PORT"),
        ("SHUTDOWN_TIMEOUT", "SHUTDOWN_TIMEOUT_SECONDS"),
        ("KAFKA_TOPIC", "KAFKA_TOPICS"),
        ("DATABASE_URI", "DATABASE_URL"),
    ],
)
def test_a_near_miss_is_pointed_out(variable: str, meant: str) -> None:
    assert Settings.warnings({variable: "1"}) == [f"{variable} is not a setting; did you mean {meant}?"]


def test_other_peoples_variables_are_not() -> None:
    innocent = ["PATH", "HOME", "LOGNAME", "DATABASE_URL_FILE", "KAFKA_GROUP_PROTOCOL", "KAFKA_CLIENT_ID", "PORT", "DB"]
    assert Settings.warnings(dict.fromkeys([*innocent, *(v.name for v in Settings.variables())], "x")) == []


def test_the_docs_are_what_the_code_prints() -> None:
    assert DOCS.read_text(encoding="utf-8") == settings_page.markdown(), (
        "write them anew: python -m consumer.settings_page > docs/configuration.md"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAFKA_MESSAGE_MAX_BYTES", "10485760"),
        ("KAFKA_QUEUED_MAX_MESSAGES_KBYTES", "1024"),
    ],
)
def test_the_size_of_fetches_follows_what_the_operator_sets(variable: str, value: str) -> None:
    properties = Settings.load({variable: value}).kafka_properties()
    assert "fetch.max.bytes" not in properties
    make_consumer(properties, logging.getLogger("tests.settings")).close()
    assert Settings.load({}).kafka_properties()["fetch.max.bytes"] == 8_388_608
