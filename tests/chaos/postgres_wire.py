"""What goes between psycopg and PostgreSQL, cut into statements and their answers, for `tests.chaos.proxy`.

A piece to the server is what the client sends before it waits: a simple query, an extended one up to its Sync, or all
the data of a COPY. A piece to the client is the whole answer to one of those. Both bear the statement's text on one
line, a COPY's data with `DATA` before it. It follows clients that wait for each answer before they go on, as ours do,
over connections that are not encrypted, which `through` sees to.
"""

import struct
from collections.abc import Iterator

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.chaos.proxy import Piece, Proxy

STARTUP, CANCEL = 196_608, 80_877_102  # protocol 3.0; a request to cancel, on a connection of its own
ANY_3 = 3 << 16
COMMIT = "COMMIT"


def through(proxy: Proxy, url: str) -> str:
    """The address of a database by way of the proxy; its server's port becomes the proxy's target."""
    proxy.target = int(conninfo_to_dict(url).get("port") or 5432)
    return make_conninfo(url, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")


class PostgresWire:
    """One connection."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._client = ""
        self._started = False  # the start-up packet has been seen
        self._ready = False  # the server has said so once
        self._sent, self._received = b"", b""
        self._group, self._answer = b"", b""
        self._label = "STARTUP"
        self._prepared: dict[bytes, str] = {}
        self._step = 0

    def pieces(self, data: bytes, *, to_server: bool) -> Iterator[Piece]:
        """The statements, or the answers, that `data` completes."""
        return self._requests(data) if to_server else self._answers(data)

    def _requests(self, data: bytes) -> Iterator[Piece]:
        self._sent += data
        if not self._started:
            if len(self._sent) < 8 or len(self._sent) < (size := int.from_bytes(self._sent[:4], "big")):
                return
            first, self._sent, self._started = self._sent[:size], self._sent[size:], True
            (code,) = struct.unpack_from(">I", first, 4)
            if code == CANCEL:
                self._label = "CANCEL"
            else:
                assert code & ~0xFFFF == ANY_3, f"not a start-up packet of protocol 3: {code}"
                words = first[8:].split(b"\0")
                self._client = dict(zip(words[::2], words[1::2], strict=False)).get(b"application_name", b"").decode()
            yield self._piece(first, to_server=True)
        while (message := _message(self._sent)) is not None:
            self._sent = self._sent[len(message) :]
            self._group += message
            kind = message[:1]
            self._name(kind, message[5:])
            if kind in b"QScfXp":
                group, self._group = self._group, b""
                if kind != b"p":
                    self._step = 0 if self._label.startswith("BEGIN") else self._step + 1
                yield self._piece(group, to_server=True)

    def _name(self, kind: bytes, body: bytes) -> None:
        """Find out the statement's text."""
        if kind == b"Q":
            self._label = _one_line(body[:-1])
        elif kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            self._prepared[name] = self._label = _one_line(text)
        elif kind == b"B":
            self._label = self._prepared.get(body.split(b"\0", 2)[1], "")
        elif kind in b"cf":
            self._label = f"DATA {self._label}"
        elif kind == b"X":
            self._label = "TERMINATE"

    def _answers(self, data: bytes) -> Iterator[Piece]:
        starting = not self._ready
        if starting:  # a dialogue: its messages are passed on as they come
            yield self._piece(data, to_server=False)
        self._received += data
        while (message := _message(self._received)) is not None:
            self._received = self._received[len(message) :]
            if starting:
                self._ready = message[:1] == b"Z"
                continue
            self._answer += message
            # An error that ends the session is not followed by anything, nor is it always an answer.
            fatal = message[:1] == b"E" and b"VFATAL\0" in message
            if message[:1] in b"ZG" or fatal:
                answer, self._answer = self._answer, b""
                yield self._piece(answer, to_server=False)

    def _piece(self, content: bytes, *, to_server: bool) -> Piece:
        # The label is the last request's: nobody sends another one before its answer.
        return Piece(self._session, to_server, content, self._client, self._label, self._step)


def _message(data: bytes) -> bytes | None:
    """The first whole message: a letter, its length, its body."""
    if len(data) < 5:
        return None
    size = 1 + int.from_bytes(data[1:5], "big")
    return data[:size] if len(data) >= size else None


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split()).rstrip(";")
