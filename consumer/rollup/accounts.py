"""Which accounts have a rollup, and in which time zone: a snapshot with its version.

A batch is cut into days with one snapshot; its transaction checks that the version is still the present one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consumer.rollup.batch import Int64Array


@dataclass(frozen=True, slots=True)
class AccountZones:
    """Accounts with a reporting time zone, as columns.

    Attributes:
        version: `rollup_control.settings_version` that this is a snapshot of.
        account_ids: int64[a], sorted.
        zone_index: int32[a], positions in `zones`.
        zones: IANA names in use.
    """

    version: int
    account_ids: Int64Array
    zone_index: npt.NDArray[np.int32]
    zones: tuple[str, ...]

    @classmethod
    def of(cls, version: int, timezones: Mapping[int, str]) -> "AccountZones":
        """From account id -> IANA name."""
        zones = tuple(sorted(set(timezones.values())))
        position = {name: index for index, name in enumerate(zones)}
        accounts = sorted(timezones)
        return cls(
            version,
            np.array(accounts, np.int64),
            np.array([position[timezones[account]] for account in accounts], np.int32),
            zones,
        )

    def timezone(self, account_id: int) -> str:
        """The IANA name of an account that has one."""
        return self.zones[int(self.zone_index[np.searchsorted(self.account_ids, account_id)])]

    def index_of(self, account_ids: Int64Array) -> npt.NDArray[np.int32]:
        """int32[n]: each account's position in `zones`, -1 where it has no time zone."""
        if not len(self.account_ids):
            return np.full(len(account_ids), -1, np.int32)
        place = np.searchsorted(self.account_ids, account_ids)
        place[place == len(self.account_ids)] = 0
        known = self.account_ids[place] == account_ids
        return np.where(known, self.zone_index[place], np.int32(-1))
