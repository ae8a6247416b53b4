# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the bytes of one pinned file come from: the Hub, which is asked once, and the CDN that it points to."""

from __future__ import annotations

import http.client
import re
import threading
import urllib.parse
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Callable

from ._errors import HubError, InvalidInput
from ._http import HttpClient, origin_of
from ._retry import may_pass, server_delay

USER_AGENT = "gpufleet.models/0.1.0"

_MAX_REDIRECTS = 5
_LONGEST_REASON = 200  # characters of what a server says that are repeated to the user
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LOCATION_EXPIRED = frozenset({400, 401, 403, 404, 410})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Unavailable(Exception):
    """The server did not serve the bytes this time.

    ``delay`` holds the seconds that it asked to wait, if it did. ``of_hub`` is true when that counts for all files.
    """

    def __init__(self, message: str, delay: float | None = None, of_hub: bool = False) -> None:
        super().__init__(message)
        self.delay = delay
        self.of_hub = of_hub


@dataclass(frozen=True)
class Hub:
    """An endpoint that serves pinned files, and the token for it."""

    endpoint: str
    token: str | None = None

    def file_url(self, repo_id: str, commit: str, path: str) -> str:
        """Return the address of a file at a commit."""
        return f"{self.endpoint.rstrip('/')}/{repo_id}/resolve/{commit}/{urllib.parse.quote(path)}"


class Source:
    """One file of a repository, readable from any position by any thread.

    :param hub: Where to ask.
    :param url: The file's address there.
    :param size: The file's size in bytes by the lock.
    """

    def __init__(self, hub: Hub, url: str, size: int) -> None:
        self._hub_origin = origin_of(hub.endpoint)
        self._token = hub.token
        self._url = url
        self._size = size
        self._location: str | None = None
        self._asking = threading.Lock()

    def open(
        self, client: HttpClient, start: int, end: int, turn: Callable[[bool], AbstractContextManager[None]]
    ) -> tuple[http.client.HTTPResponse, bool]:
        """Ask for the bytes from ``start`` to ``end`` (exclusive).

        :param turn: Gives what to do around the request; it is told whether that goes to the Hub.
        :returns: The answer, and whether its body is what was asked for; if not, the server ignores ranges and the body
            is the whole file.
        :raises Unavailable: When another attempt may succeed.
        :raises ConnectionLost: The same, without any answer.
        :raises HubError: When the server refuses for good.
        """
        location = self._location
        if location is None:
            # While the Hub is asked for the CDN's address, other threads that want the same file wait for the answer.
            with self._asking:
                location = self._location
                if location is None:
                    with turn(True):
                        return self._request(client, self._url, start, end)
        with turn(False):
            return self._request(client, location, start, end)

    def forget_location(self) -> None:
        """Ask the Hub again next time."""
        self._location = None

    def _request(self, client: HttpClient, url: str, start: int, end: int) -> tuple[http.client.HTTPResponse, bool]:
        for _hop in range(_MAX_REDIRECTS + 1):
            response = client.get(url, self._headers(url, start, end))
            if response.status in (200, 206):
                try:
                    self._check_body(response, start, end)
                except Unavailable:
                    client.drop(origin_of(url))
                    raise
                return response, response.status == 206 or (start, end) == (0, self._size)
            client.discard(url, response)
            if response.status not in _REDIRECTS:
                raise self._refusal(url, response)
            url = self._target(url, response.headers.get("Location", ""))
            if origin_of(url) != self._hub_origin:
                self._location = url
        self._location = None
        raise Unavailable(f"more than {_MAX_REDIRECTS} redirects")

    def _target(self, url: str, location: str) -> str:
        try:
            target = urllib.parse.urljoin(url, location)
            origin_of(target.encode("ascii").decode())
        except (ValueError, InvalidInput):
            self._location = None
            raise Unavailable(f"redirected to {location!r}, expected an http or https URL") from None
        return target

    def _headers(self, url: str, start: int, end: int) -> dict[str, str]:
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        if (start, end) != (0, self._size):
            headers["Range"] = f"bytes={start}-{end - 1}"
        # The token is for the Hub alone: a CDN's address carries its own signature.
        if self._token and origin_of(url) == self._hub_origin:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _check_body(self, response: http.client.HTTPResponse, start: int, end: int) -> None:
        """Refuse a body that cannot be these bytes of this file, nor all of it."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise Unavailable(f"the server sent it {encoding}-encoded, which was not asked for")
        if response.status == 206:
            found = response.headers.get("Content-Range", "")
            match = _CONTENT_RANGE.fullmatch(found)
            total = str(self._size)
            if match is None or match.group(3) not in (total, "*") or match.groups()[:2] != (str(start), str(end - 1)):
                raise Unavailable(f"expected bytes {start}-{end - 1}/{total}, the server sent {found or 'no range'!r}")
        elif response.length is not None and response.length != self._size:
            kind = response.headers.get("Content-Type", "unknown")
            raise Unavailable(f"expected {self._size} bytes, the server announces {response.length} of type {kind}")

    def _refusal(self, url: str, response: http.client.HTTPResponse) -> Exception:
        headers, status = response.headers, response.status
        said = headers.get("X-Error-Message") or response.reason or http.client.responses.get(status, "unknown")
        reason = "".join(character for character in said[:_LONGEST_REASON] if character.isprintable())
        at_hub = origin_of(url) == self._hub_origin
        if may_pass(status):
            delay = server_delay(headers.get("Retry-After", ""), headers.get("RateLimit", ""))
            return Unavailable(f"HTTP {status} {reason}", delay, of_hub=at_hub)
        if status == 416:
            return Unavailable(f"expected {self._size} bytes, the server says that it has fewer (HTTP 416)")
        if not at_hub and status in _LOCATION_EXPIRED:
            self._location = None
            return Unavailable(f"HTTP {status} {reason} from {origin_of(url)[1]}")
        advice = _ADVICE.get(headers.get("X-Error-Code", ""))
        if advice is None:
            advice = "; check the token and its rights" if status in (401, 403) else ""
        return HubError(f"HTTP {status} {reason}{advice}")


_ADVICE = {
    "GatedRepo": "; accept the repository's terms on the Hub with the account of your token",
    "RepoNotFound": "; the repository is missing, or private: check its id and the token's rights",
    "RevisionNotFound": "; the commit is gone: lock again with 'upgrade'",
    "EntryNotFound": "; the file is gone: lock again with 'upgrade'",
}
