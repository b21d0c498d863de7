"""What the values of settings may be: each function returns the value, or raises ValueError that says what is wrong
with it. `consumer.settings` names the variable and what is allowed."""

import ipaddress
import re
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from consumer.connection_uri import HOW, misread
from consumer.handlers import HANDLER_NAMES


class TopicHandler(NamedTuple):
    """A topic to consume, and the handler that reads its messages."""

    topic: str
    handler: str


def database_url(value: str) -> str:
    """What libpq connects to: a URI whose parts are what they stand for, or key=value."""
    if misread(value):
        raise ValueError(f"its parts do not fit: {HOW}")
    try:
        parts = conninfo_to_dict(value)
    except psycopg.ProgrammingError as error:
        raise ValueError("it does not parse") from error
    if not parts:
        raise ValueError("it is empty")
    return value


def servers(value: str) -> str:
    """Brokers: host, or host:port, or protocol://host:port, separated by commas."""
    server = re.compile(r"([A-Z_]+://)?(\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+)(:(?P<port>\d{1,5}))?")
    for part in value.split(","):
        found = server.fullmatch(part.strip())
        if not found:
            raise ValueError(f"{part.strip()!r} is not host:port")
        if found["port"] and not 1 <= int(found["port"]) <= 65_535:  # librdkafka would take the rest of a division
            raise ValueError(f"{found['port']} is no port")
    return value


def topics(value: object) -> object:
    """`topic` or `topic:handler`, separated by commas, as `TopicHandler`s."""
    if not isinstance(value, str):
        return value
    found: list[TopicHandler] = []
    for part in value.split(","):
        topic, colon, handler = part.strip().partition(":")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic) or topic in {".", ".."}:
            raise ValueError(f"{topic!r} cannot be the name of a topic")
        if colon and handler not in HANDLER_NAMES:
            raise ValueError(f"there is no handler {handler!r}")
        if any(topic == other.topic for other in found):
            raise ValueError(f"topic {topic!r} is named twice")
        found.append(TopicHandler(topic, handler or HANDLER_NAMES[0]))
    return tuple(found)


def group(value: str) -> str:
    """The name of a consumer group."""
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", value):
        raise ValueError("it is empty, too long or has spaces")
    return value


def address(value: str) -> str:
    """An IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        raise ValueError("names are not looked up") from error
    return value


def share(value: float) -> float:
    """From 0 to 1."""
    if not 0 <= value <= 1:  # NaN is not either
        raise ValueError("it is no share")
    return value
