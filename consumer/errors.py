"""Every error this program raises on purpose, by who must act.

    RollupError
    ├── ConfigurationError     the operator: a setting is wrong                              exit 2
    ├── WrongUse               whoever typed it: a command asks for what does not exist      exit 2
    ├── SchemaError            the operator: migrations are missing, or newer than the code  exit 3
    ├── TopicError             the operator: a topic is missing                              exit 4
    ├── OffsetGapError         the operator: stored offsets do not fit the topic             exit 5
    │   └── TopicMadeAgain     the operator: the topic was deleted and made again            exit 9
    ├── DeadLetterFlood        the operator: too many messages cannot be events              exit 6
    ├── FencedError            the operator: two processes have one KAFKA_GROUP_INSTANCE_ID  exit 7
    ├── AccessError            the operator: Kafka or PostgreSQL does not let us in          exit 8
    └── RetryBatch             nobody: roll back, and do what the subclass says
        ├── OffsetConflict     partitions were taken over, or the database went back in time
        └── SettingsChanged    accounts' settings moved on: aggregate again

A message says what is wrong, where, and what to do. Driver errors keep their place as `__cause__`.
"""

from collections.abc import Sequence


class RollupError(Exception):
    """Base of all errors raised on purpose; `exit_code` is the process's when it ends one."""

    exit_code = 1


class ConfigurationError(RollupError):
    """A setting is wrong; the message names it in one line."""

    exit_code = 2


class WrongUse(RollupError):  # noqa: N818 - what it is called in every manual
    """The command line asks for something that does not exist; the message says what to write instead."""

    exit_code = 2


class SchemaError(RollupError):
    """The database's schema is not the one this program needs."""

    exit_code = 3


class TopicError(RollupError):
    """A configured topic does not exist."""

    exit_code = 4


class OffsetGapError(RollupError):
    """A stored offset lies outside the topic's log."""

    exit_code = 5


class TopicMadeAgain(OffsetGapError):  # noqa: N818 - what happened to it
    """A topic has another id than the one whose offsets are stored: it was deleted and created again."""

    exit_code = 9


class DeadLetterFlood(RollupError):  # noqa: N818 - it is the producer's error
    """More messages of a partition cannot be events than the limits allow; its stored offset is the first one's that
    is too many."""

    exit_code = 6


class FencedError(RollupError):
    """Another process joined the group with this one's `group.instance.id` and has its partitions now."""

    exit_code = 7


class AccessError(RollupError):
    """Kafka or PostgreSQL answers and refuses us: credentials, certificates or rights have to change."""

    exit_code = 8


class RetryBatch(RollupError):  # noqa: N818 - not an error to whoever reads the log
    """The transaction rolled back on purpose."""


class OffsetConflict(RetryBatch):
    """The stored next offset is not the expected one for `partitions`: somebody else counted these messages, or
    the database lost commits in a failover. Read the stored offsets again and seek."""

    def __init__(self, partitions: Sequence[str]) -> None:
        self.partitions = tuple(partitions)
        super().__init__(f"stored offsets moved for {', '.join(partitions)}; reading them again and going on there")


class SettingsChanged(RetryBatch):
    """Accounts' settings changed since the batch was aggregated."""
