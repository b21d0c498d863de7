"""The registry: its table is the contract, and it refuses to contradict itself."""

from dataclasses import replace

import pytest

from consumer.rollup.registry import REGISTRY, Dimension, Kind, Metric, Registry

CONTRACT = """
conversation_resolved      resolutions_count      count
conversation_resolved      resolution_time        duration
first_response             first_response         duration
reply_time                 reply_time             duration
conversation_bot_resolved  bot_resolutions_count  count
conversation_bot_handoff   bot_handoffs_count     distinct conversation_id
"""


def test_the_table_is_the_contract() -> None:
    table = [" ".join(filter(None, (m.event, m.metric, m.kind.value, m.member))) for m in REGISTRY.metrics]
    assert table == [" ".join(line.split()) for line in CONTRACT.strip().splitlines()]
    dimensions = {d.type: d.column for d in REGISTRY.dimensions}
    assert dimensions == {"account": "account_id", "agent": "user_id", "inbox": "inbox_id"}


def test_an_events_code_is_its_place_among_the_names() -> None:
    assert REGISTRY.event_names == (
        "conversation_resolved",
        "first_response",
        "reply_time",
        "conversation_bot_resolved",
        "conversation_bot_handoff",
    )
    assert [REGISTRY.event_code[name] for name in REGISTRY.event_names] == [0, 1, 2, 3, 4]


def test_id_columns_are_what_dimensions_and_members_read() -> None:
    assert REGISTRY.id_columns == ("user_id", "inbox_id", "conversation_id")
    more = Registry(REGISTRY.metrics, (*REGISTRY.dimensions, Dimension("conversation", "conversation_id")))
    assert more.id_columns == ("user_id", "inbox_id", "conversation_id")


@pytest.mark.parametrize("member", [None, "user_id"])
@pytest.mark.parametrize("kind", Kind)
def test_a_member_goes_with_distinct_and_with_nothing_else(kind: Kind, member: str | None) -> None:
    if (kind is Kind.DISTINCT) == (member is not None):
        Metric("e", "m", kind, member)
    else:
        with pytest.raises(ValueError, match="metric m: a distinct metric, and no other, names its member column"):
            Metric("e", "m", kind, member)


@pytest.mark.parametrize(
    ("metrics", "dimensions", "message"),
    [
        ([Metric("e", "m", Kind.COUNT), Metric("f", "m", Kind.DURATION)], [], "metric m has two kinds"),
        (
            [Metric("e", "m", Kind.DISTINCT, "user_id"), Metric("f", "m", Kind.DISTINCT, "inbox_id")],
            [],
            "metric m has two kinds",
        ),
        ([Metric("e", "m", Kind.COUNT)] * 2, [], "pair twice"),
        ([], [Dimension("team", "team_id"), Dimension("team", "group_id")], "dimension type twice"),
        ([], [Dimension("team", "team_id"), Dimension("group", "team_id")], "read one column"),
    ],
)
def test_a_registry_that_contradicts_itself_is_refused(
    metrics: list[Metric], dimensions: list[Dimension], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Registry(tuple(metrics), tuple(dimensions))


def test_several_events_may_feed_one_metric() -> None:
    registry = Registry((Metric("e", "m", Kind.COUNT), Metric("f", "m", Kind.COUNT)), REGISTRY.dimensions)
    assert registry.event_names == ("e", "f")


def test_the_fingerprint_changes_with_every_line_and_not_with_their_order() -> None:
    fingerprint = REGISTRY.fingerprint
    assert len(fingerprint) == 12
    backwards = Registry(REGISTRY.metrics[::-1], REGISTRY.dimensions[::-1])
    assert backwards.fingerprint == fingerprint
    changed = [
        Registry(REGISTRY.metrics[1:], REGISTRY.dimensions),
        Registry(REGISTRY.metrics, REGISTRY.dimensions[1:]),
        Registry((replace(REGISTRY.metrics[0], metric="other"), *REGISTRY.metrics[1:]), REGISTRY.dimensions),
        Registry((replace(REGISTRY.metrics[0], kind=Kind.DURATION), *REGISTRY.metrics[1:]), REGISTRY.dimensions),
        Registry((*REGISTRY.metrics[:-1], replace(REGISTRY.metrics[-1], member="user_id")), REGISTRY.dimensions),
    ]
    assert len({fingerprint, *(registry.fingerprint for registry in changed)}) == len(changed) + 1
