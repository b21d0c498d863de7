"""A TCP proxy that does to a connection what networks do: delay, trickle, silence, lost packets, resets in mid-message.

It knows no protocol: `Wire` cuts each direction's bytes into pieces and names them (`tests.chaos.postgres_wire` by
statements, `Plain` as they come). A test's `Interfere` sees each piece just before it is sent on, and says what
happens to it. Everything runs in one thread with an event loop; an `Interfere` that blocks keeps all connections
waiting, and one that raises fails the test when the proxy is closed.
"""

import asyncio
import contextlib
import ctypes
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self

CHUNK = 65_536
SLICE_SECONDS = 0.05
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # from asm-generic/socket.h
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: closing sends RST, and no FIN


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that are sent on together.

    Attributes:
        session: the number of the connection, from 1.
        to_server: whether the client sends it.
        content: the bytes.
        client: what the client calls itself (`application_name`); "" where the protocol has no such thing.
        label: what it is, or what it answers: the statement; "" where the wire knows no statements.
        step: how many statements the client has sent since its last BEGIN, which is 0.
    """

    session: int
    to_server: bool
    content: bytes
    client: str = ""
    label: str = ""
    step: int = 0


class Wire(Protocol):
    """One connection's bytes, both directions, cut into pieces. Bytes that are no whole piece yet are kept."""

    def pieces(self, data: bytes, *, to_server: bool) -> Iterable[Piece]:
        """The pieces that `data` completes."""
        ...


class Plain:
    """A wire that knows nothing: each read is a piece."""

    def __init__(self, session: int) -> None:
        self._session = session

    def pieces(self, data: bytes, *, to_server: bool) -> Iterable[Piece]:
        """All of it."""
        return [Piece(self._session, to_server, data)]


@dataclass(frozen=True, slots=True)
class Hold:
    """Send the piece on `seconds` later; the other direction goes on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Send this share of the piece (0 to below 1: always at least a byte less than all), then reset both sides."""

    share: float = 0.0


Deed = Hold | Cut | None
"""None: send it on."""
Interfere = Callable[[Piece], Deed]


class _Reset(Exception):  # noqa: N818 - not an error
    """This connection ends with RST to both sides."""


class Proxy:
    """Listens on 127.0.0.1:`port` from entering to leaving, and connects to 127.0.0.1:`target`.

    Attributes:
        target: port of the server; may be set before the first connection.
        interfere: looks at every piece; may be set at any time.
        delay: seconds that each piece waits.
        bytes_per_second: the most that goes through in each direction of a connection; 0 for no limit.
        sessions: how many connections were made so far.
    """

    def __init__(self, target: int = 0, wire: Callable[[int], Wire] = Plain) -> None:
        self.target = target
        self.interfere: Interfere = lambda _: None
        self.delay = 0.0
        self.bytes_per_second = 0
        self.sessions = 0
        self._wire = wire
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: dict[asyncio.Task[None], tuple[socket.socket, socket.socket]] = {}
        self._errors: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._lossy = False
        self._accepting = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Self:
        self._flowing.set()
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._errors:
            raise AssertionError("the proxy failed") from self._errors[0]

    # -- what a test does to all connections, from its own thread

    def cut(self) -> None:
        """Reset every connection."""
        self._call(self._cut())

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones until `restore`."""
        self._call(self._cut(refuse=True))

    def silence(self) -> None:
        """Accept and answer nothing, as a server that hangs on a host that lives; pieces wait for `restore`."""
        self._call(self._set(flowing=False))

    def lose_packets(self) -> None:
        """Nothing arrives any more, not even what the kernels say: no answer to SYN, data, keepalives or FIN."""
        self._call(self._set(flowing=True, lossy=True))

    def restore(self) -> None:
        """End `refuse`, `silence`, `lose_packets`, `delay` and `bytes_per_second`."""
        self.delay, self.bytes_per_second = 0.0, 0
        self._call(self._set(flowing=True, lossy=False))
        self._call(self._listen())

    def storm(
        self,
        chance: random.Random,
        wait: Callable[[float], object],
        steps: int,
        *,
        delay: float,
        bytes_per_second: int,
        longest: float,
    ) -> None:
        """All of the above in any order, each for up to `longest` seconds; it ends restored."""

        def slow() -> None:
            self.delay = delay

        def trickle() -> None:
            self.bytes_per_second = bytes_per_second

        faults = [self.cut, self.cut, self.refuse, self.silence, self.lose_packets, slow, trickle, self.restore]
        for _ in range(steps):
            chance.choice(faults)()
            wait(chance.uniform(0.1, longest))
            if chance.random() < 0.6:
                self.restore()
                wait(chance.uniform(0.1, 0.5))
        self.restore()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # -- inside the loop

    async def _listen(self) -> None:
        if self._accepting:
            return
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        # Not sock_accept(): cancelled at the wrong instant, it loses a connection that nobody closes then.
        self._loop.add_reader(self._listener, self._accept)
        self._accepting = True

    async def _cut(self, refuse: bool = False) -> None:
        if refuse and self._accepting:
            self._loop.remove_reader(self._listener)
            self._accepting = False
            self._listener.close()
        for task, sockets in self._open.items():
            for each in sockets:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            task.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    async def _end(self) -> None:
        await self._cut(refuse=True)

    async def _set(self, *, flowing: bool, lossy: bool | None = None) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()
        if lossy is not None and lossy != self._lossy:
            self._lossy = lossy
            for each in [self._listener, *(one for pair in self._open.values() for one in pair)]:
                if each.fileno() >= 0:  # the listener is closed while connections are refused
                    _lose_what_arrives(each, lossy)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it went away before we came to it
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = socket.socket()
        server.setblocking(False)
        self.sessions += 1
        task = self._loop.create_task(self._serve(self.sessions, client, server))
        self._open[task] = (client, server)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for each in self._open.pop(task):
            each.close()
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)

    async def _serve(self, number: int, client: socket.socket, server: socket.socket) -> None:
        wire = self._wire(number)
        reset = True  # a server that is not there, and a side that was reset, are passed on
        with contextlib.suppress(_Reset, ConnectionError, TimeoutError):
            await self._loop.sock_connect(server, ("127.0.0.1", self.target))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [
                self._loop.create_task(self._pump(wire, client, server, to_server=True)),
                self._loop.create_task(self._pump(wire, server, client, to_server=False)),
            ]
            try:
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
            for way in done:
                way.result()
            reset = False
        if reset:
            for each in (client, server):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def _pump(self, wire: Wire, source: socket.socket, sink: socket.socket, *, to_server: bool) -> None:
        while data := await self._loop.sock_recv(source, CHUNK):
            for piece in wire.pieces(data, to_server=to_server):
                await self._pass_on(piece, sink)

    async def _pass_on(self, piece: Piece, sink: socket.socket) -> None:
        deed = self.interfere(piece)
        if isinstance(deed, Cut):
            kept = min(int(len(piece.content) * deed.share), len(piece.content) - 1)
            await self._loop.sock_sendall(sink, piece.content[:kept])
            raise _Reset
        await asyncio.sleep(self.delay + (deed.seconds if isinstance(deed, Hold) else 0.0))
        await self._flowing.wait()
        content = piece.content
        while (rate := self.bytes_per_second) and content:
            most = max(1, int(rate * SLICE_SECONDS))
            await self._loop.sock_sendall(sink, content[:most])
            content = content[most:]
            await asyncio.sleep(SLICE_SECONDS)
        await self._loop.sock_sendall(sink, content)


def _lose_what_arrives(each: socket.socket, lossy: bool) -> None:
    """Have the kernel drop every segment that arrives for a socket, before TCP sees it, or no longer."""
    if not lossy:
        each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        return
    # One instruction of classic BPF: return 0, so many bytes of the packet are kept.
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
