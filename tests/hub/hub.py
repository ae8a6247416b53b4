"""The Hub as tests use it: two origins, repositories, faults and counters in one object."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .api import HubApi
from .cdn import Cdn
from .digests import DigestCache
from .faults import Fault, Faults
from .messages import Request, Response
from .origin import Origin
from .repository import DEFAULT_LFS, Repository
from .stats import Exchange, Stats

AnyFault = TypeVar("AnyFault", bound=Fault)

LOOPBACK = "127.0.0.1"


class Hub:
    """A Hugging Face Hub on this machine, from ``with`` or between ``start()`` and ``close()``.

    ``endpoint`` is on 127.0.0.1 and its CDN on localhost: for clients these are two origins, as with the real one. With
    another ``address`` of this machine both are there, on two ports, for clients on other machines.
    With ``resolve_cache`` ordinary files are behind a relative redirection to the Hub itself, as they are on
    huggingface.co since 2025. ``digest_cache`` is a file that keeps digests for the next start.
    """

    def __init__(
        self,
        *,
        tokens: Collection[str] = (),
        port: int = 0,
        cdn_port: int = 0,
        link_lifetime: float = 3600,
        resolve_cache: bool = False,
        digest_cache: Path | None = None,
        address: str = LOOPBACK,
    ) -> None:
        self.tokens = set(tokens)
        """The tokens that are valid."""
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.stats = Stats()
        self.cdn = Cdn(link_lifetime)
        self._api = HubApi(self.repositories, self.tokens, self.cdn, self.faults)
        self._api.resolve_cache = resolve_cache
        self.address = address
        self._ports = (port, cdn_port)
        self._digests = DigestCache(digest_cache)
        self._origins: list[Origin] = []
        self._tokens_seen: set[str] = set()

    @property
    def endpoint(self) -> str:
        """The address to give to clients as the Hub's."""
        return self._api.endpoint

    @property
    def cdn_endpoint(self) -> str:
        return self._api.cdn_endpoint

    def start(self) -> Hub:
        """Start to listen on both origins."""
        hub = Origin("hub", (self.address, self._ports[0]), self._answer(self._api.answer), self.stats)
        self._origins.append(hub)
        cdn = Origin("cdn", (self.address, self._ports[1]), self._answer(self.cdn.answer), self.stats)
        self._origins.append(cdn)
        self._api.endpoint = f"http://{self.address}:{hub.port}"
        self._api.cdn_endpoint = f"http://{'localhost' if self.address == LOOPBACK else self.address}:{cdn.port}"
        return self

    def close(self) -> None:
        """Stop, whatever is being sent and whatever fault is active."""
        self.faults.clear()
        while self._origins:
            self._origins.pop().close()

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add_repo(
        self,
        repo_id: str,
        directory: Path | str,
        *,
        lfs: Collection[str] = DEFAULT_LFS,
        gated: bool = False,
        private: bool = False,
        readers: Collection[str] | None = None,
    ) -> Repository:
        """Make a repository whose branch ``main`` holds the files of a directory.

        ``lfs`` are globs of the files in Git LFS, which the CDN serves; files over 10 MiB always are. ``readers`` are
        the tokens that may read what is gated or private, by default all valid ones.
        """
        repository = Repository(repo_id, lfs=lfs, gated=gated, private=private, readers=readers, digests=self._digests)
        repository.add_commit(directory)
        self.repositories[repo_id] = repository
        return repository

    @contextmanager
    def fault(self, fault: AnyFault) -> Iterator[AnyFault]:
        """Switch a fault on for the length of a ``with`` block."""
        self.faults.add(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    def _answer(self, endpoint: Callable[[Request], Response]) -> Callable[[Request], tuple[Response, Exchange]]:
        def answer(request: Request) -> tuple[Response, Exchange]:
            if request.origin == "hub" and request.token is not None:
                self._tokens_seen.add(request.token)
            exchange = self.stats.requested(request, self.tokens | self._tokens_seen)
            response = endpoint(request)
            self.faults.edit_response(request, response)
            return response, exchange

        return answer
