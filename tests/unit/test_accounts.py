"""The snapshot of account settings that a batch is cut into days with."""

import numpy as np
import pytest

from consumer.rollup.accounts import AccountZones

ZONES = AccountZones.of(7, {42: "Europe/Paris", -5: "UTC", 2**31 - 1: "Europe/Paris", 0: "Asia/Tokyo"})


def test_accounts_are_sorted_and_zones_are_listed_once() -> None:
    assert ZONES.version == 7
    assert ZONES.account_ids.tolist() == [-5, 0, 42, 2**31 - 1]
    assert ZONES.zones == ("Asia/Tokyo", "Europe/Paris", "UTC")


@pytest.mark.parametrize(
    ("account", "name"), [(42, "Europe/Paris"), (-5, "UTC"), (2**31 - 1, "Europe/Paris"), (0, "Asia/Tokyo")]
)
def test_each_account_has_its_zone(account: int, name: str) -> None:
    assert ZONES.timezone(account) == name
    (index,) = ZONES.index_of(np.array([account], np.int64))
    assert ZONES.zones[index] == name


def test_accounts_without_a_zone_have_none() -> None:
    wanted = np.array([-(2**31), -6, -4, 1, 41, 43, 2**31 - 2, 2**40], np.int64)
    assert ZONES.index_of(wanted).tolist() == [-1] * len(wanted)


def test_known_and_unknown_accounts_in_any_order() -> None:
    index = ZONES.index_of(np.array([99, 42, 42, -7, 0], np.int64))
    assert [ZONES.zones[i] if i >= 0 else None for i in index] == [
        None,
        "Europe/Paris",
        "Europe/Paris",
        None,
        "Asia/Tokyo",
    ]


def test_no_accounts_at_all() -> None:
    nobody = AccountZones.of(1, {})
    assert nobody.index_of(np.array([1, 2], np.int64)).tolist() == [-1, -1]
    assert nobody.index_of(np.array([], np.int64)).tolist() == []


def test_no_events_at_all() -> None:
    assert ZONES.index_of(np.array([], np.int64)).tolist() == []
