"""A client that hides nothing: one request, no redirection followed, every header and byte as it came."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 60


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def fetch(url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Reply:
    """Send one request on a connection of its own. Raises what http.client raises."""
    connection = connect(url)
    try:
        response = send(connection, url, headers, method=method)
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def connect(url: str) -> http.client.HTTPConnection:
    """Open a connection to the origin of an address."""
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)


def send(
    connection: http.client.HTTPConnection, url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
) -> http.client.HTTPResponse:
    """Send a request on a connection and return the response before its body is read."""
    parts: Any = urlsplit(url)
    connection.request(method, parts._replace(scheme="", netloc="").geturl(), headers=dict(headers or {}))
    return connection.getresponse()
