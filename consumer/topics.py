"""What brokers say of the topics: their ids. Asked by a client of its own, which never reads and joins no group.

It asks once a second, so it is also the first to know whether any broker answers.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from consumer.access import Refusals, refused_topic
from consumer.errors import TopicError
from consumer.rollup.batch import Partition

NEW_CLIENT_SECONDS = 5.0
"""How long questions get no answer until another client asks them."""


class Topics:
    """The topics and their ids, which change when a topic is deleted and made again. Used by one thread.

    Args:
        properties: librdkafka's.
        names: of the topics.
        logger: a standard logger for librdkafka's own lines.

    Attributes:
        unanswered: why no broker answered the last question; None if one did.
    """

    def __init__(self, properties: Mapping[str, str | int], names: Sequence[str], logger: Any) -> None:
        self._properties = properties
        self._names = list(names)
        self._logger = logger
        self._refusals = Refusals()
        self._admin = self._client()
        self._questions: dict[str, Future[Any]] = {}
        self._unanswered_since = 0.0
        self.unanswered: str | None = None

    def ids(self, timeout: float = 10) -> dict[str, str]:
        """Each topic's id. Waits for an answer, for `timeout` seconds.

        Raises:
            TopicError: a topic is missing.
            AccessError: we may not read it, or no broker let us in.
            KafkaException: no broker answered.
        """
        self._admin.poll(0)
        self._refusals.clear()
        ids = {}
        for topic, future in self._ask(timeout).items():
            try:
                ids[topic] = str(future.result().topic_id)
            except KafkaException as error:
                self._admin.poll(0)  # it only tells in here why it could not connect
                self._note(_no_answer(future))
                raise topic_error(topic, error, self._refusals) from error
        self._note(None)
        return ids

    def log_ranges(self, partitions: Collection[Partition], timeout: float) -> dict[Partition, tuple[int, int]]:
        """Of each log the first offset that is still there, and the next one to be written. Waits for the answers, for
        `timeout` seconds. Raises KafkaException: there is none."""
        lows = ask_offsets(self._admin, partitions, OffsetSpec.earliest(), timeout)  # type: ignore[no-untyped-call]
        highs = ask_offsets(self._admin, partitions, OffsetSpec.latest(), timeout)  # type: ignore[no-untyped-call]
        return {p: (offset_in(lows[p]), offset_in(highs[p])) for p in sorted(partitions)}

    def changed(self, known: Mapping[str, str]) -> str | None:
        """The name of a topic that does not have its known id any more; None if there is none, or no answer yet.

        Never blocks: each call looks at the answer to the question of the last one, and asks again.
        """
        answers = self._questions
        if answers and not all(answer.done() for answer in answers.values()):
            return None
        self._note(next(filter(None, map(_no_answer, answers.values())), None))
        self._questions = self._ask(10)
        for topic, answer in answers.items():
            if answer.exception() is None and known.get(topic, "") not in {"", str(answer.result().topic_id)}:
                return topic
        return None

    def serve_logs(self) -> None:
        """Pass on what librdkafka logged. Returns at once."""
        self._admin.poll(0)

    def _ask(self, timeout: float) -> dict[str, Future[Any]]:
        # A client that has had no answer for a while may never get one again: see `Source.renew_if_lost`.
        if self.unanswered is not None and time.monotonic() - self._unanswered_since > NEW_CLIENT_SECONDS:
            self._admin = self._client()
            self._unanswered_since = time.monotonic()
        questions: dict[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection(self._names), request_timeout=timeout
        )
        return questions

    def _note(self, missing: str | None) -> None:
        if self.unanswered is None:
            self._unanswered_since = time.monotonic()
        self.unanswered = missing

    def _client(self) -> AdminClient:
        return AdminClient(connection_properties(self._properties), logger=self._logger, error_cb=self._refusals)


def connection_properties(properties: Mapping[str, str | int]) -> dict[str, str | int | float | bool]:
    """What a client that only asks for metadata needs: how to connect."""
    how = (
        "bootstrap.",
        "security.",
        "sasl.",
        "ssl.",
        "enable.ssl",
        "client.",
        "socket.",
        "reconnect.",
        "broker.address",
    )
    return {name: value for name, value in properties.items() if name.startswith(how)}


def ask_offsets(
    admin: AdminClient,
    partitions: Collection[Partition],
    spec: OffsetSpec,
    timeout: float,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[Partition, Future[Any]]:
    """Ask for one offset of each partition, at least one. The answers, for `offset_in`, are there within `timeout`
    seconds."""
    wanted = {TopicPartition(*p): spec for p in partitions}
    asked = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=timeout)
    return {Partition(at.topic, at.partition): answer for at, answer in asked.items()}


def offset_in(answer: Future[Any]) -> int:
    """The offset in an answer to `ask_offsets`; waits for it. Raises KafkaException: there is none.

    The client says of a question that was lost on the way to a partition's leader that it went well, and that the
    offset is -1001 (librdkafka up to 2.16): taken for an offset, it would be a log that lost all its messages.
    """
    offset = int(answer.result().offset)
    if offset < 0:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "no answer: the connection to the leader was lost"))
    return offset


def _no_answer(answer: Future[Any]) -> str | None:
    """Why a question that is over got no answer; an error that a broker told is one."""
    error = answer.exception()
    if not isinstance(error, KafkaException) or error.args[0].code() >= 0:
        return None
    if error.args[0].code() == KafkaError._DESTROY:  # asked of a client that was given up for another
        return f"no broker answers within {NEW_CLIENT_SECONDS:.0f} s"
    return None if error.args[0].code() == KafkaError._UNKNOWN_TOPIC else f"no broker answers: {error.args[0].str()}"


def topic_error(topic: str, error: KafkaException, refusals: Refusals) -> Exception:
    """What to raise when a question about a topic was answered with an error, or not at all."""
    code = error.args[0].code()
    if code in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:
        return TopicError(f"topic {topic!r} does not exist: create it, or name another in KAFKA_TOPICS")
    return refused_topic(f"topic {topic!r}", error.args[0]) or refusals.error() or error
