"""Requests, responses, and the part of a file that a Range header asks for."""

from __future__ import annotations

import http
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Request:
    """A request as it came. ``headers`` have lower-case names, ``path`` is decoded and has no query."""

    origin: str
    method: str
    target: str
    headers: dict[str, str]

    @property
    def raw_path(self) -> str:
        """The path as it was sent, percent-encoded."""
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def token(self) -> str | None:
        """The bearer token that came with the request."""
        scheme, _separator, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None


@dataclass(frozen=True)
class FileSlice:
    """A part of a file on disk, sent without passing through Python."""

    path: Path
    start: int
    length: int

    def __len__(self) -> int:
        return self.length


Piece = bytes | FileSlice


@dataclass(frozen=True)
class Content:
    """The whole of what a path holds, of which a response carries a part or all."""

    source: Path | bytes
    size: int
    etag: str
    content_type: str = "application/octet-stream"

    def slice(self, start: int, length: int) -> Piece:
        if isinstance(self.source, bytes):
            return self.source[start : start + length]
        return FileSlice(self.source, start, length)


@dataclass(frozen=True)
class Pause:
    """Silence, before the headers or after so many bytes of the body.

    It lasts ``seconds`` (None is for ever) or until ``released`` is set.
    """

    seconds: float | None
    released: threading.Event
    after_bytes: int = 0


@dataclass(frozen=True)
class Pace:
    """A limit of speed: ``step`` bytes every ``interval`` seconds, until ``released`` is set."""

    step: int
    interval: float
    released: threading.Event


@dataclass
class Response:
    """An answer and how it is to be delivered. Faults edit it before it is sent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: list[Piece] = field(default_factory=list)

    content: Content | None = None
    """The file of which the body is a part, None if the body is no file's."""
    offset: int = 0
    """Where in ``content`` the body starts."""

    silent: bool = False
    """Close the connection without having said a word."""
    before_headers: list[Pause] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    pace: Pace | None = None
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    reset: bool = False
    """Close with RST instead of FIN."""
    close: bool = False
    """Close the connection once the body is sent. Only a header of the response announces it."""

    @property
    def length(self) -> int:
        """The number of bytes in the body."""
        return sum(len(piece) for piece in self.body)

    @property
    def reason(self) -> str:
        try:
            return http.HTTPStatus(self.status).phrase
        except ValueError:
            return "Unknown"

    def replace_body(self, *pieces: Piece, content_type: str) -> None:
        """Put something else in place of the body, which is then no file's any more."""
        self.body = list(pieces)
        self.content = None
        self.offset = 0
        self.headers = {name: value for name, value in self.headers.items() if name not in _OF_THE_BODY}
        self.headers["Content-Type"] = content_type


_OF_THE_BODY = {"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Content-Encoding"}


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a JSON body."""
    head = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Response(status, head, [json.dumps(value, ensure_ascii=False).encode()])


def redirect_response(location: str, headers: dict[str, str], status: int = 302) -> Response:
    """Return a redirection with the short text that browsers show."""
    text = f"{http.HTTPStatus(status).phrase}. Redirecting to {location}".encode()
    return Response(status, {"Content-Type": "text/plain; charset=utf-8", **headers, "Location": location}, [text])


def content_response(content: Content, request: Request, *, ignore_range: bool = False) -> Response:
    """Answer with the file, or with the range of it that the request asks for (200, 206, 416)."""
    headers = {"Content-Type": content.content_type, "Accept-Ranges": "bytes", "ETag": content.etag}
    wanted = None if ignore_range else request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", content.etag) == content.etag:
        part = parse_range(wanted, content.size)
        if part is not None and part.start == part.stop:
            return Response(416, {**headers, "Content-Range": f"bytes */{content.size}"})
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{content.size}"
            return Response(206, headers, [content.slice(part.start, len(part))], content=content, offset=part.start)
    return Response(200, headers, [content.slice(0, content.size)], content=content)


def parse_range(header: str, size: int) -> range | None:
    """Return the positions that a Range header asks for.

    None is a header to be ignored (not bytes, several ranges, nonsense), an empty range one that cannot be satisfied.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    start = int(first)
    return range(start, min(size, int(last) + 1) if last else size) if start < size else range(0)


def split_piece(piece: Piece, at: int) -> Sequence[Piece]:
    """Cut a piece of a body in two."""
    if isinstance(piece, bytes):
        return piece[:at], piece[at:]
    return (
        FileSlice(piece.path, piece.start, at),
        FileSlice(piece.path, piece.start + at, piece.length - at),
    )
