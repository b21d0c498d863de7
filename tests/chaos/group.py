"""Both rebalance protocols, with timeouts so short that a scenario sees a member given up."""

import pytest
from _pytest.mark import ParameterSet
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

SESSION_MS = 2_000
"""Until a silent member's partitions go to others."""

Variables = dict[str, str | int]

PROTOCOLS: dict[str, Variables] = {
    "classic": {"KAFKA_SESSION_TIMEOUT_MS": SESSION_MS, "KAFKA_HEARTBEAT_INTERVAL_MS": 300},
    "consumer": {"KAFKA_GROUP_PROTOCOL": "consumer"},
}
"""Settings of a member, by `group.protocol`. With `consumer` the broker decides the timeouts: see `quicken`."""


def one_is_quick(name: str) -> list[ParameterSet]:
    """Both protocols for `parametrize`; that one is in the selection that runs for every change."""
    return [pytest.param(each, marks=pytest.mark.quick if each == name else ()) for each in PROTOCOLS]


def quicken(bootstrap: str, group: str) -> None:
    """Give the group the timeouts that members of the protocol `consumer` leave to the broker."""
    resource = ConfigResource(ConfigResource.Type.GROUP, group)
    timeouts = {"consumer.session.timeout.ms": SESSION_MS, "consumer.heartbeat.interval.ms": 300}
    for name, value in timeouts.items():
        resource.add_incremental_config(ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET))
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
