"""What the Hub was asked and what it sent, for tests to judge."""

from __future__ import annotations

import fnmatch
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .messages import Request


@dataclass
class Exchange:
    """One request and its answer.

    ``sent`` counts the bytes of the body that went into the socket: a client that went away may have read fewer.
    ``start`` is the position in the file of the first of them.
    """

    request: Request
    status: int | None = None
    start: int = 0
    sent: int = 0

    @property
    def origin(self) -> str:
        return self.request.origin

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def range(self) -> str | None:
        """The Range header of the request."""
        return self.request.headers.get("range")


class Stats:
    """Counters of both origins, ``hub`` and ``cdn``. Paths are globs, in which ``*`` matches slashes as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []
        self._open: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        """Connections accepted, by origin."""
        self.max_connections: Counter[str] = Counter()
        """The most connections that were open at the same time, by origin."""
        self.token_seen_at_cdn = False
        """Whether a request to the CDN had an Authorization header, or a token anywhere in it."""

    def reset(self) -> None:
        """Start counting anew. Connections that are open stay counted as open."""
        with self._lock:
            self._exchanges = []
            self.connections.clear()
            self.max_connections = Counter(self._open)
            self.token_seen_at_cdn = False

    def exchanges(self, origin: str | None = None, method: str | None = None, path: str = "*") -> list[Exchange]:
        """Return what matches, in the order of arrival."""
        with self._lock:
            exchanges = list(self._exchanges)
        return [
            exchange
            for exchange in exchanges
            if origin in (None, exchange.origin)
            and method in (None, exchange.method)
            and fnmatch.fnmatchcase(exchange.path, path)
        ]

    def requests(self, origin: str | None = None, method: str | None = None, path: str = "*") -> int:
        """Return the number of requests."""
        return len(self.exchanges(origin, method, path))

    def bytes_sent(self, origin: str | None = None, method: str | None = None, path: str = "*") -> int:
        """Return the number of bytes of bodies that were sent."""
        return sum(exchange.sent for exchange in self.exchanges(origin, method, path))

    def by_path(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """Return the number of requests and of bytes for each origin, method and path."""
        counts: dict[tuple[str, str, str], tuple[int, int]] = {}
        for exchange in self.exchanges():
            key = (exchange.origin, exchange.method, exchange.path)
            requests, sent = counts.get(key, (0, 0))
            counts[key] = (requests + 1, sent + exchange.sent)
        return counts

    def ranges(self, path: str = "*", origin: str | None = None) -> list[tuple[str | None, int, int]]:
        """Return for each GET the Range header, the first position and the number of bytes really sent."""
        return [(exchange.range, exchange.start, exchange.sent) for exchange in self.exchanges(origin, "GET", path)]

    def repeated_bytes(self, path: str = "*", origin: str | None = None) -> int:
        """Return how many bytes of files were sent more than once, 0 if no position of a file was sent twice."""
        by_path: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for exchange in self.exchanges(origin, "GET", path):
            if exchange.status in (200, 206):
                part = (exchange.start, exchange.start + exchange.sent)
                by_path.setdefault((exchange.origin, exchange.path), []).append(part)
        return sum(_overlap(parts) for parts in by_path.values())

    def connected(self, origin: str) -> None:
        """Count a connection that an origin accepted."""
        with self._lock:
            self.connections[origin] += 1
            self._open[origin] += 1
            self.max_connections[origin] = max(self.max_connections[origin], self._open[origin])

    def disconnected(self, origin: str) -> None:
        """Count a connection as closed."""
        with self._lock:
            self._open[origin] -= 1

    def requested(self, request: Request, tokens: Iterable[str]) -> Exchange:
        """Count a request, and look for tokens in it if it came to the CDN."""
        exchange = Exchange(request)
        with self._lock:
            self._exchanges.append(exchange)
            if request.origin == "cdn":
                everything = "\n".join([request.target, *request.headers, *request.headers.values()])
                if "authorization" in request.headers or any(token in everything for token in tokens):
                    self.token_seen_at_cdn = True
        return exchange


def _overlap(parts: list[tuple[int, int]]) -> int:
    repeated = reached = 0
    for start, stop in sorted(parts):
        repeated += max(0, min(stop, reached) - start)
        reached = max(reached, stop)
    return repeated
