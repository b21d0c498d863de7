"""The catalogue of metrics: naming rules, bounded labels, everything from 0, and the page of docs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer import metrics
from consumer.metric_catalogue import (
    CATALOGUE,
    ERROR_CLASSES,
    OUTCOMES,
    PREFIX,
    SKIP_REASONS,
    SQLSTATES,
    STAGES,
    Kind,
    Row,
)
from consumer.metrics import Metrics
from consumer.rollup.registry import REGISTRY

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

rows = pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row.name)


@pytest.fixture
def made() -> Metrics:
    return Metrics(CollectorRegistry(), topics=("events", "cdc"))


def value(made: Metrics, name: str, **labels: str) -> float | None:
    return made.registry.get_sample_value(PREFIX + name, labels)


def samples(made: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in made.registry.collect():
        for sample in family.samples:
            if sample.name.startswith(PREFIX):
                yield sample.name.removeprefix(PREFIX), sample.labels, sample.value


# The catalogue


@rows
def test_a_name_follows_the_rules_of_prometheus(row: Row) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", row.name)
    assert row.name.endswith("_total") == (row.kind is Kind.COUNTER)
    assert row.name.endswith("_info") == (row.kind is Kind.INFO)
    if row.unit.startswith("seconds"):
        assert re.search(r"_seconds(_total)?$", row.name)
    if row.kind is not Kind.INFO:
        assert row.unit
    not_base = {"milliseconds", "ms", "minutes", "hours", "kilobytes", "kb", "mb", "percent", "count", "sum", "bucket"}
    assert not not_base & set(row.name.split("_"))


@rows
def test_labels_are_bounded_and_hold_no_ids(row: Row) -> None:
    forbidden = {"account", "account_id", "id", "event_id", "offset", "user", "inbox", "conversation", "le", "quantile"}
    for label in row.labels:
        assert re.fullmatch(r"[a-z][a-z_]*", label.name)
        assert label.name not in forbidden
        assert bool(label.values) != bool(label.bound)
        assert len(set(label.values)) == len(label.values)
        if label.bound and row.kind is not Kind.INFO:
            assert label.name in {"topic", "partition"}


@rows
def test_a_person_learns_something_from_it(row: Row) -> None:
    assert row.meaning.endswith(".")
    assert row.meaning[0].isupper()
    assert "|" not in row.meaning


@rows
def test_histograms_alone_have_buckets_that_rise(row: Row) -> None:
    assert bool(row.buckets) == (row.kind is Kind.HISTOGRAM)
    assert list(row.buckets) == sorted(set(row.buckets))


def test_names_are_different() -> None:
    assert len({row.name for row in CATALOGUE}) == len(CATALOGUE)


def test_what_can_happen_to_a_message_has_a_label_value() -> None:
    # The columns of the balance sheet in consumer_offsets.
    assert set(OUTCOMES) == {"counted", "duplicate", "late", "skipped", "dead"}
    assert {"tombstone", "unknown_event", "no_timezone"} < set(SKIP_REASONS)
    rejects = {"syntax", "encoding", "type", "missing", "range", "timestamp", "text", "size", "nesting"}
    assert rejects < set(ERROR_CLASSES)
    assert {"40001", "40P01"} < set(SQLSTATES)


# The objects


@rows
def test_every_row_is_an_attribute_of_its_kind(row: Row, made: Metrics) -> None:
    found = getattr(made, row.name.removesuffix("_total"))
    assert isinstance(found, {Kind.COUNTER: Counter, Kind.HISTOGRAM: Histogram}.get(row.kind, Gauge))


def test_nothing_is_made_that_is_not_in_the_catalogue(made: Metrics) -> None:
    own = {name for name, made_of in vars(made).items() if isinstance(made_of, Counter | Gauge | Histogram)}
    assert own == {row.name.removesuffix("_total") for row in CATALOGUE}


def test_every_known_series_starts_at_zero(made: Metrics) -> None:
    present = {(name, tuple(sorted(labels.items()))) for name, labels, _ in samples(made)}
    for row in CATALOGUE:
        if len(row.labels) == 1:
            label = row.labels[0]
            values = ("events", "cdc") if label.name == "topic" else label.values
            for label_value in values:
                assert (row.name, ((label.name, label_value),)) in present
        elif not row.labels:
            assert (row.name + ("_count" if row.kind is Kind.HISTOGRAM else ""), ()) in present
    for thread, stages in STAGES.items():
        for stage in stages:
            assert value(made, "stage_seconds_total", thread=thread, stage=stage) == 0
    assert {name for name, _, number in samples(made) if number} == {"build_info", "registry_info"}


def test_the_text_for_prometheus_parses_and_has_no_series_that_nobody_reads(made: Metrics) -> None:
    text = generate_latest(made.registry).decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    for row in CATALOGUE:
        assert PREFIX + row.name.removesuffix("_total") in families
    assert "_created" not in text
    assert "process_cpu_seconds_total" in text


def test_two_processes_worth_of_metrics_can_stand_side_by_side(made: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    other.transactions.inc()
    assert value(made, "transactions_total") == 0


def test_info_names_what_results_rest_on(made: Metrics) -> None:
    assert value(made, "registry_info", fingerprint=REGISTRY.fingerprint) == 1
    [labels] = [labels for name, labels, _ in samples(made) if name == "build_info"]
    assert re.fullmatch(r"20\d\d\.\d+", labels["tzdata"])
    assert re.match(r"\d+\.\d+\.\d+", labels["librdkafka"])


# Compound updates


def test_outcomes_add_up(made: Metrics) -> None:
    made.observe_outcomes({"counted": 5, "late": 2})
    made.observe_outcomes({"counted": 1, "dead": 0})
    assert value(made, "events_total", outcome="counted") == 6
    assert value(made, "events_total", outcome="late") == 2
    assert value(made, "events_total", outcome="dead") == 0


def test_a_word_of_our_own_that_is_misspelt_is_an_error(made: Metrics) -> None:
    before = len(list(samples(made)))
    with pytest.raises(KeyError):
        made.observe_outcomes({"lost": 1})
    with pytest.raises(KeyError):
        made.observe_stage("thinking", 1.0)
    assert len(list(samples(made))) == before


def test_stages_belong_to_their_thread(made: Metrics) -> None:
    made.observe_stage("decode", 0.5)
    made.observe_stage("upsert", 0.25)
    assert value(made, "stage_seconds_total", thread="reader", stage="decode") == 0.5
    assert value(made, "stage_seconds_total", thread="writer", stage="upsert") == 0.25


def test_values_from_outside_stay_bounded(made: Metrics) -> None:
    before = len(list(samples(made)))
    made.observe_skipped("tombstone", 2)
    made.observe_skipped("a reason of tomorrow", 3)
    made.observe_dead_letter("syntax")
    made.observe_dead_letter("cosmic ray", 4)
    made.observe_retry("40P01")
    made.observe_retry("XX000")
    made.observe_retry(None)
    assert value(made, "events_skipped_total", reason="tombstone") == 2
    assert value(made, "events_skipped_total", reason="other") == 3
    assert value(made, "dead_letters_total", error_class="syntax") == 1
    assert value(made, "dead_letters_total", error_class="other") == 4
    assert [value(made, "db_retries_total", sqlstate=s) for s in ("40P01", "other", "none")] == [1, 1, 1]
    assert len(list(samples(made))) == before


def test_series_of_a_partition_live_as_long_as_it_is_ours(made: Metrics) -> None:
    def partitions() -> set[tuple[str, str, str]]:
        return {(n, ls["topic"], ls["partition"]) for n, ls, _ in samples(made) if "partition" in ls}

    made.add_partitions([("events", 0), ("events", 1)])
    # A lag of 0 would claim that there is none before anybody looked.
    assert partitions() == {("last_commit_timestamp_seconds", "events", p) for p in "01"}
    for p in "01":
        made.consumer_lag_messages.labels("events", p).set(3)
        made.consumer_lag_seconds.labels("events", p).set(1.5)
    assert len(partitions()) == 6
    made.remove_partitions([("events", 0), ("never", 9)])
    names = ("last_commit_timestamp_seconds", "consumer_lag_messages", "consumer_lag_seconds")
    assert partitions() == {(name, "events", "1") for name in names}


def test_the_docs_are_what_the_code_prints() -> None:
    assert DOCS.read_text(encoding="utf-8") == metrics.markdown(), (
        "write them anew: python -m consumer.metrics > docs/metrics.md"
    )


def test_the_docs_show_every_row() -> None:
    text = metrics.markdown()
    for row in CATALOGUE:
        assert f"| `{row.name}` | {row.kind} |" in text
