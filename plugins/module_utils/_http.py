# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP connections that are kept alive, go through the proxies of the environment, and can be aborted.

``ansible.module_utils.urls`` opens a connection for every request; a model has thousands of blocks. TLS and proxies are
the standard library's: ``SSL_CERT_FILE``, ``https_proxy`` and ``no_proxy`` work as everywhere.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import urllib.parse
import urllib.request

from ._errors import InvalidInput, TransferError

_PORTS = {"http": 80, "https": 443}
_MAX_DISCARD = 64 * 1024  # bytes of an unwanted answer that are read to keep a connection


class ConnectionLost(Exception):
    """A connection could not be made or broke; another attempt may succeed."""


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an absolute URL.

    :raises InvalidInput: When it is not an absolute http or https URL.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        (parts.hostname or "").encode("idna")
    except (ValueError, KeyError):
        raise InvalidInput(f"{url!r}: expected an http or https URL") from None
    if not parts.hostname:
        raise InvalidInput(f"{url!r}: expected a URL with a host name")
    return parts.scheme, parts.hostname.lower(), port


class HttpClient:
    """The connections of one thread: at most one to each origin, kept open between requests.

    :param timeout: Seconds that connecting, or any single read, may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._connections: dict[tuple[str, str, int], http.client.HTTPConnection] = {}
        self._socket: socket.socket | None = None
        self._proxies = urllib.request.getproxies()

    def get(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a GET request and return the answer with its body unread. Redirects are not followed.

        Read the body to its end, or call :meth:`discard`, before the next request.

        :raises ConnectionLost: When there is no answer.
        :raises TransferError: When the server's certificate is not trusted.
        """
        origin = origin_of(url)
        known = self._connections.get(origin)
        kept = known is not None and known.sock is not None
        try:
            return self._send(origin, url, headers)
        except ssl.SSLCertVerificationError as error:
            self.drop(origin)
            raise TransferError(
                f"the certificate of {origin[1]} is not trusted: {error.verify_message}; "
                "add its issuer to the system's trust store, or name it in SSL_CERT_FILE"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            self.drop(origin)
            if not kept:
                raise ConnectionLost(f"no answer from {origin[1]}:{origin[2]}: {_describe(error)}") from None
        # A connection that was kept may have been closed by the server in the meantime: that is no failure yet.
        try:
            return self._send(origin, url, headers)
        except (OSError, http.client.HTTPException) as error:
            self.drop(origin)
            raise ConnectionLost(f"no answer from {origin[1]}:{origin[2]}: {_describe(error)}") from None

    def _send(self, origin: tuple[str, str, int], url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        proxy = self._proxy_for(origin)
        connection = self._connections.get(origin)
        if connection is None or connection.sock is None:  # none yet, or closed with the last answer
            connection = self._connections[origin] = self._connect(origin, proxy)
        self._socket = connection.sock
        parts = urllib.parse.urlsplit(url)
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        if proxy and origin[0] == "http":
            target = urllib.parse.urlunsplit((parts.scheme, parts.netloc, target, "", ""))
            headers = {**headers, **_proxy_credentials(proxy)}
        connection.request("GET", target, headers=headers)
        return connection.getresponse()

    def _proxy_for(self, origin: tuple[str, str, int]) -> urllib.parse.SplitResult | None:
        proxy = self._proxies.get(origin[0])
        if not proxy or urllib.request.proxy_bypass(f"{origin[1]}:{origin[2]}"):
            return None
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        try:
            origin_of(proxy)
        except InvalidInput:  # it may hold a password: do not show it
            raise TransferError(
                f"{origin[0]}_proxy: expected the URL of a proxy, found none in the environment"
            ) from None
        return urllib.parse.urlsplit(proxy)

    def _connect(
        self, origin: tuple[str, str, int], proxy: urllib.parse.SplitResult | None
    ) -> http.client.HTTPConnection:
        scheme, host, port = origin
        connection: http.client.HTTPConnection
        target = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
        if scheme == "https":
            connection = http.client.HTTPSConnection(
                *target, timeout=self._timeout, context=ssl.create_default_context()
            )
            if proxy:
                connection.set_tunnel(host, port, headers=_proxy_credentials(proxy))
        else:
            connection = http.client.HTTPConnection(*target, timeout=self._timeout)
        connection.connect()
        return connection

    def discard(self, url: str, response: http.client.HTTPResponse) -> None:
        """Finish with an answer whose body is not wanted; keep the connection where that costs little."""
        try:
            while response.length is not None and response.length <= _MAX_DISCARD and response.read(_MAX_DISCARD):
                pass
        except (OSError, http.client.HTTPException):
            pass
        if not response.isclosed():
            self.drop(origin_of(url))

    def drop(self, origin: tuple[str, str, int]) -> None:
        """Close the connection to an origin, if there is one."""
        connection = self._connections.pop(origin, None)
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Break the request under way. May be called from another thread; the request then fails at once."""
        active = self._socket
        if active is not None:
            with contextlib.suppress(OSError):
                # Not active.shutdown(): for TLS that would pull the rug from under the thread that reads.
                socket.socket.shutdown(active, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        for origin in list(self._connections):
            self.drop(origin)


def _proxy_credentials(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = urllib.parse.unquote(proxy.username) + ":" + urllib.parse.unquote(proxy.password or "")
    return {"Proxy-Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
