"""From UTC offsets to time zones: what may be written, which zones have an offset at an instant, and their names."""

from datetime import UTC, date, datetime, timedelta

import pytest

from backfill.zones import (
    containing,
    named_zone,
    offset_at,
    offset_text,
    parse_offset,
    suggestion,
    zones_at_offset,
)
from consumer.rollup.days import zone, zone_names

WINTER, SUMMER = datetime(2026, 1, 15, 12, tzinfo=UTC), datetime(2026, 7, 15, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("+05:30", 330),
        ("+0530", 330),
        ("5:30", 330),
        ("-3", -180),
        ("\N{MINUS SIGN}3", -180),
        ("UTC+2", 120),
        ("utc +2", 120),
        ("GMT-03:30", -210),
        (" +14 ", 840),
        ("-12:00", -720),
        ("0", 0),
        ("UTC", 0),
        ("Z", 0),
        ("-0:45", -45),
    ],
)
def test_an_offset_may_be_written_in_many_ways(text: str, minutes: int) -> None:
    assert parse_offset(text) == minutes * MINUTE


@pytest.mark.parametrize(
    "text", ["", "east", "+", "5.5", "+1:2", "+05:30:00", "1e1", "+5 30", "\N{ARABIC-INDIC DIGIT FIVE}x"]
)
def test_what_is_no_offset_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a UTC offset: write it as \+05:30, -3 or UTC\+2"):
        parse_offset(text)


@pytest.mark.parametrize("text", ["+16", "-99:00", "+05:60"])
def test_an_offset_that_no_clock_has(text: str) -> None:
    with pytest.raises(ValueError, match=r"between -12:00 and \+14:00"):
        parse_offset(text)


@pytest.mark.parametrize("minutes", [0, 330, -210, 840, -720, -45])
def test_what_is_shown_can_be_entered(minutes: int) -> None:
    assert parse_offset(offset_text(minutes * MINUTE)) == minutes * MINUTE


@pytest.mark.parametrize("now", [WINTER, SUMMER])
def test_every_zone_is_found_by_its_offset_and_by_no_other(now: datetime) -> None:
    expected: dict[timedelta, set[str]] = {}
    for name in set(zone_names()) - {"Factory"}:
        offset = now.astimezone(zone(name)).utcoffset()
        assert offset is not None
        expected.setdefault(offset, set()).add(name)
    for offset, names in expected.items():
        found = zones_at_offset(offset, now)
        assert {each.name for each in found} == names
        assert {each.offset for each in found} == {offset}
        assert found == sorted(found, key=lambda each: (not each.present_name, each.name))
        assert parse_offset(offset_text(offset)) == offset


def test_zones_of_places_come_before_old_and_technical_names() -> None:
    names = [each.name for each in zones_at_offset(5.5 * HOUR, WINTER)]
    assert names == ["Asia/Colombo", "Asia/Kolkata", "Asia/Calcutta"]
    utc = zones_at_offset(0 * HOUR, WINTER)
    technical = [each.name for each in utc if not each.present_name]
    assert {"Etc/UTC", "GMT", "Zulu"} <= set(technical)
    assert {"UTC", "Europe/London"} <= {each.name for each in utc if each.present_name}


def test_the_season_decides_which_zones_have_an_offset() -> None:
    winter, summer = ({each.name for each in zones_at_offset(1 * HOUR, now)} for now in (WINTER, SUMMER))
    assert "Europe/Paris" in winter - summer
    assert "Europe/London" in summer - winter
    assert "Africa/Lagos" in winter & summer


def test_what_the_clocks_do_next() -> None:
    winter = {each.name: each for each in zones_at_offset(1 * HOUR, WINTER)}
    assert (winter["Europe/Paris"].changes_on, winter["Europe/Paris"].offset_then) == (date(2026, 3, 29), 2 * HOUR)
    assert winter["Europe/Paris"].clock == "UTC+02:00 from 2026-03-29"
    assert winter["Africa/Lagos"].clock == "keeps this offset"
    summer = {each.name: each for each in zones_at_offset(11 * HOUR, WINTER)}
    assert summer["Australia/Lord_Howe"].clock == "UTC+10:30 from 2026-04-05"
    assert offset_at("Australia/Lord_Howe", SUMMER) == 10.5 * HOUR


def test_an_offset_that_no_zone_has_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"the nearest that exist are UTC\+05:00 and UTC\+05:30"):
        zones_at_offset(5.25 * HOUR, WINTER)
    with pytest.raises(ValueError, match=r"the nearest that exist are UTC\+14:00$"):
        zones_at_offset(15 * HOUR, WINTER)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("europe/paris", "Europe/Paris"),
        (" America/New York ", "America/New_York"),
        ("utc", "UTC"),
        ("Paris", None),
        ("", None),
    ],
)
def test_a_name_is_taken_whatever_its_capitals(text: str, name: str | None) -> None:
    assert named_zone(text) == name


def test_a_part_of_a_name_narrows_the_list() -> None:
    zones = zones_at_offset(1 * HOUR, WINTER)
    assert [each.name for each in containing(zones, "PAR")] == ["Europe/Paris"]
    assert [each.name for each in containing(zones, "san m")] == ["Europe/San_Marino"]
    assert containing(zones, "Kolkata") == []


def test_a_suggestion_for_what_somebody_may_have_meant() -> None:
    assert suggestion("Berlim").startswith(" Did you mean Europe/Berlin")
    assert suggestion("xqzw") == ""
