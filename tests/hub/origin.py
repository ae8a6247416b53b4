"""A small HTTP/1.1 server, which delivers responses as well or as badly as they demand."""

from __future__ import annotations

import contextlib
import email.utils
import io
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from .messages import Pace, Pause, Piece, Request, Response
from .stats import Exchange, Stats

# A client that stops reading must not leave much counted as sent, and each call of sendfile costs little.
_CHUNK = 1024 * 1024

# How soon a silence notices that the client has gone.
_LOOK_AROUND = 0.05

# How far a paced body may catch up after the client was slow to read, in seconds.
_BURST = 0.25


class Origin:
    """Listens on a port, one thread for each connection.

    ``answer`` makes the response to a request and records it; it is called from many threads at once.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        answer: Callable[[Request], tuple[Response, Exchange]],
        stats: Stats,
    ) -> None:
        self.name = name
        self.answer = answer
        self.stats = stats
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(address, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"{name}-acceptor", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening and close all connections, whatever they are doing."""
        self.closing.set()
        # A connection of our own is the one portable way to wake a thread in accept().
        with socket.socket() as waker:
            waker.connect(self._listener.getsockname())
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.interrupt()
        for connection in connections:
            connection.join()

    def _accept(self) -> None:
        while True:
            client, _address = self._listener.accept()
            if self.closing.is_set():
                client.close()
                return
            connection = _Connection(self, client)
            with self._lock:
                self._connections.add(connection)
            self.stats.connected(self.name)
            connection.start()

    def forget(self, connection: _Connection) -> None:
        """Take a connection off the list of those that are open."""
        with self._lock:
            self._connections.discard(connection)
        self.stats.disconnected(self.name)


class _Connection(threading.Thread):
    """Answers the requests of one connection, one after the other."""

    def __init__(self, origin: Origin, client: socket.socket) -> None:
        super().__init__(name=f"{origin.name}-connection", daemon=True)
        self._origin = origin
        self._socket = client
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = client.makefile("rb")

    def run(self) -> None:
        try:
            while (request := read_request(self._reader, self._origin.name)) is not None:
                response, exchange = self._origin.answer(request)
                if not self._deliver(request, response, exchange):
                    break
        except OSError:
            pass  # The client has gone, or this server is closing.
        finally:
            self._reader.close()
            self._socket.close()
            self._origin.forget(self)

    def interrupt(self) -> None:
        """Make the thread end, even while it reads or sends."""
        # Refused if the connection is closed already.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _deliver(self, request: Request, response: Response, exchange: Exchange) -> bool:
        """Send a response and return whether the connection can carry another one."""
        for pause in response.before_headers:
            self._pause(pause)
        if response.silent:
            return False
        keep_alive = request.headers.get("connection", "").lower() != "close"
        exchange.status = response.status
        exchange.start = response.offset
        self._socket.sendall(_head(response, keep_alive))
        if request.method != "HEAD" and not self._send_body(response, exchange):
            if response.reset:
                self._reset()
            return False
        return keep_alive and not response.close

    def _send_body(self, response: Response, exchange: Exchange) -> bool:
        """Send the body and return whether all of it was sent."""
        pauses = sorted(response.pauses, key=lambda pause: pause.after_bytes)
        pacer = _Pacer(response.pace)
        position = 0
        for piece in response.body:
            with _opened(piece) as source:
                done = 0
                while done < len(piece):
                    while pauses and pauses[0].after_bytes <= position:
                        self._pause(pauses.pop(0))
                    if position == response.cut_after:
                        return False
                    stops = [pause.after_bytes for pause in pauses[:1]]
                    if response.cut_after is not None:
                        stops.append(response.cut_after)
                    size = pacer.limit(min(_CHUNK, len(piece) - done, *(stop - position for stop in stops)))
                    if (pause := pacer.pause(size)) is not None:
                        self._pause(pause)
                    # Counted before it is sent, so that a client that has it all finds it counted.
                    exchange.sent += size
                    sent = 0
                    try:
                        sent = self._send(piece, source, done, size)
                    finally:
                        exchange.sent -= size - sent
                    if sent == 0:
                        return False  # The file is shorter than it was when its commit was made.
                    done += sent
                    position += sent
        return True

    def _send(self, piece: Piece, source: io.FileIO | None, start: int, size: int) -> int:
        if isinstance(piece, bytes):
            return self._socket.send(memoryview(piece)[start : start + size])
        assert source is not None
        return os.sendfile(self._socket.fileno(), source.fileno(), piece.start + start, size)

    def _reset(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pause(self, pause: Pause) -> None:
        """Be silent until the time is over, the fault is switched off, the server closes or the client goes."""
        end = float("inf") if pause.seconds is None else time.monotonic() + pause.seconds
        while not (pause.released.is_set() or self._origin.closing.is_set()):
            left = end - time.monotonic()
            if left <= 0:
                return
            pause.released.wait(min(left, _LOOK_AROUND))
            if self._client_has_gone():
                raise ConnectionAbortedError

    def _client_has_gone(self) -> bool:
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False


class _Pacer:
    """Spreads a body over time."""

    def __init__(self, pace: Pace | None) -> None:
        self._pace = pace
        self._due = time.monotonic()

    def limit(self, size: int) -> int:
        """Return how much of ``size`` to send at once."""
        if self._pace is None or self._pace.released.is_set():
            return size
        return min(size, self._pace.step)

    def pause(self, size: int) -> Pause | None:
        """Return the pause that is due before the next ``size`` bytes."""
        if self._pace is None or self._pace.released.is_set():
            return None
        now = time.monotonic()
        self._due = max(self._due + self._pace.interval * size / self._pace.step, now - _BURST)
        return Pause(self._due - now, self._pace.released)


@contextlib.contextmanager
def _opened(piece: Piece) -> Iterator[io.FileIO | None]:
    if isinstance(piece, bytes):
        yield None
    else:
        with piece.path.open("rb", buffering=0) as stream:
            yield stream


def read_request(reader: io.BufferedReader, origin: str) -> Request | None:
    """Read a request, whose body if any is thrown away. None is the end of the connection, or no HTTP."""
    line = reader.readline(65536).decode("latin-1").split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (header := reader.readline(65536)) not in (b"\r\n", b"\n", b""):
        name, _separator, value = header.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    reader.read(int(headers.get("content-length", 0)))
    return Request(origin, line[0], line[1], headers)


def _head(response: Response, keep_alive: bool) -> bytes:
    headers = {
        "Date": email.utils.formatdate(usegmt=True),
        "Content-Length": str(response.length),
        "Connection": "keep-alive" if keep_alive else "close",
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
