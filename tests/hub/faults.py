"""What can go wrong between a client and the Hub, to be switched on and off while the Hub runs.

Every kind of fault is a class. Its first fields say which requests it strikes, the others what it does to them:

    with hub.fault(Status(503, path="*/tree/*", times=2)):
        ...
    with hub.fault(Flip(offset=70_000, path="*.gguf")) as flip:
        ...
    assert flip.applied == 1
"""

from __future__ import annotations

import fnmatch
import gzip
import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from .messages import (
    FileSlice,
    Pace,
    Pause,
    Piece,
    Request,
    Response,
    content_response,
    redirect_response,
    split_piece,
)
from .repository import File, Lfs


@dataclass(eq=False, kw_only=True)
class Fault:
    """What all faults have in common: the requests they strike, and how often.

    ``path`` is a glob over the decoded path of the URL, in which ``*`` matches slashes as well. A file's path is
    ``/ORG/NAME/resolve/REVISION/FILE`` on the Hub and ``/repos/ORG/NAME/SHA256/FILE`` on the CDN, so that ``*/FILE``
    is that file at both. ``every=3`` strikes the third, sixth, ninth... of the requests that match, ``times=2`` only
    the first two of those that it would strike.
    """

    origin: str | None = None
    method: str | None = None
    path: str = "*"
    every: int = 1
    times: int | None = None

    applied: int = field(default=0, init=False)
    """How many requests it struck."""
    matched: int = field(default=0, init=False)
    released: threading.Event = field(default_factory=threading.Event, init=False)
    """Set once the fault is switched off: ends its silences."""

    def matches(self, request: Request) -> bool:
        """Whether the fault is meant for such a request."""
        return (
            self.origin in (None, request.origin)
            and self.method in (None, request.method)
            and fnmatch.fnmatchcase(request.path, self.path)
        )

    def touches(self, response: Response) -> bool:
        """Whether the fault would make a difference to this response."""
        return True

    def apply(self, request: Request, response: Response) -> None:
        """Change the response."""


class BodyFault(Fault):
    """A fault of the body, which no answer to HEAD has."""

    def matches(self, request: Request) -> bool:
        return request.method != "HEAD" and super().matches(request)


# Answers of another kind


@dataclass(eq=False)
class Status(Fault):
    """Another status in place of the answer, with headers and a text of one's choice."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    def apply(self, request: Request, response: Response) -> None:
        response.status = self.status
        response.headers = {}
        response.replace_body(self.text.encode(), content_type="text/plain; charset=utf-8")
        response.headers.update(self.headers)


def rate_limited(
    seconds: int, *, resource: str = "api", quota: int = 500, retry_after: bool = True, **match: object
) -> Status:
    """Return the 429 of the Hub, whose window ends in ``seconds``."""
    headers = {
        "RateLimit": f'"{resource}";r=0;t={seconds}',
        "RateLimit-Policy": f'"fixed window";"{resource}";q={quota};w=300',
    }
    if retry_after:
        headers["Retry-After"] = str(seconds)
    return Status(429, headers, "We had to rate limit your IP.", **match)  # type: ignore[arg-type]


@dataclass(eq=False)
class Html(Fault):
    """A page of HTML with status 200, as a captive portal gives for every address."""

    text: str = "<!DOCTYPE html><html><body>Please accept the terms of this network.</body></html>\n"

    def apply(self, request: Request, response: Response) -> None:
        response.status = 200
        response.headers = {}
        response.replace_body(self.text.encode(), content_type="text/html; charset=utf-8")


@dataclass(eq=False)
class Redirect(Fault):
    """A redirection to an address of one's choice."""

    location: str
    status: int = 302

    def apply(self, request: Request, response: Response) -> None:
        redirection = redirect_response(self.location, {}, self.status)
        response.status, response.headers = redirection.status, redirection.headers
        response.body, response.content = redirection.body, None


@dataclass(eq=False)
class RedirectLoop(Fault):
    """A redirection to the very address that was asked for."""

    def apply(self, request: Request, response: Response) -> None:
        Redirect(request.target).apply(request, response)


@dataclass(eq=False)
class MalformedJson(BodyFault):
    """JSON that ends in the middle, with the Content-Length of what is sent."""

    def touches(self, response: Response) -> bool:
        return _is_json(response)

    def apply(self, request: Request, response: Response) -> None:
        whole = b"".join(piece for piece in response.body if isinstance(piece, bytes))
        response.body = [whole[: len(whole) // 2]]


@dataclass(eq=False)
class HugeJson(BodyFault):
    """Valid JSON with the right values, and so much white space that it has at least ``size`` bytes."""

    size: int

    def touches(self, response: Response) -> bool:
        return _is_json(response)

    def apply(self, request: Request, response: Response) -> None:
        padding = b" " * min(self.size, 1024 * 1024)
        response.body = [*[padding] * math.ceil(self.size / max(1, len(padding))), *response.body]


def _is_json(response: Response) -> bool:
    return response.headers.get("Content-Type", "").startswith("application/json")


# Wrong content


@dataclass(eq=False)
class Flip(BodyFault):
    """One bit of the byte at ``offset`` of the file is wrong, whatever range it is sent in.

    Only responses that carry that byte count as struck.
    """

    offset: int
    mask: int = 0x01

    def touches(self, response: Response) -> bool:
        return response.content is not None and 0 <= self.offset - response.offset < response.length

    def apply(self, request: Request, response: Response) -> None:
        before, rest = _split_body(response.body, self.offset - response.offset)
        byte, after = _split_body(rest, 1)
        response.body = [*before, bytes([_read(byte[0])[0] ^ self.mask]), *after]


def _split_body(body: list[Piece], at: int) -> tuple[list[Piece], list[Piece]]:
    before: list[Piece] = []
    for index, piece in enumerate(body):
        if at < len(piece):
            left, right = split_piece(piece, at)
            return [*before, *([left] if at else [])], [right, *body[index + 1 :]]
        before.append(piece)
        at -= len(piece)
    return before, []


def _read(piece: Piece) -> bytes:
    if isinstance(piece, FileSlice):
        with piece.path.open("rb") as stream:
            stream.seek(piece.start)
            return stream.read(piece.length)
    return piece


@dataclass(eq=False)
class IgnoreRange(BodyFault):
    """The whole file with 200, although a range was asked for."""

    def touches(self, response: Response) -> bool:
        return response.status == 206

    def apply(self, request: Request, response: Response) -> None:
        assert response.content is not None
        whole = content_response(response.content, request, ignore_range=True)
        del response.headers["Content-Range"]
        response.status, response.body, response.offset = 200, whole.body, 0


@dataclass(eq=False)
class WrongContentRange(Fault):
    """The right bytes, announced as those ``by`` further on in the file."""

    by: int = 1

    def touches(self, response: Response) -> bool:
        return response.status == 206

    def apply(self, request: Request, response: Response) -> None:
        assert response.content is not None
        first = response.offset + self.by
        last = first + response.length - 1
        response.headers["Content-Range"] = f"bytes {first}-{last}/{response.content.size}"


@dataclass(eq=False)
class Gzip(BodyFault):
    """The body compressed, although nobody asked for that. It is made in memory."""

    def apply(self, request: Request, response: Response) -> None:
        compressed = gzip.compress(b"".join(_read(piece) for piece in response.body), mtime=0)
        response.body = [compressed]
        response.content = None
        response.headers["Content-Encoding"] = "gzip"


# A connection that fails


@dataclass(eq=False)
class Truncate(BodyFault):
    """The connection closed after so many bytes of a body, whose full length was announced."""

    after_bytes: int

    def touches(self, response: Response) -> bool:
        return response.length > self.after_bytes

    def apply(self, request: Request, response: Response) -> None:
        response.cut_after = self.after_bytes


@dataclass(eq=False)
class Reset(Truncate):
    """The connection reset (RST) after so many bytes of a body. The client may have received fewer."""

    after_bytes: int = 0

    def apply(self, request: Request, response: Response) -> None:
        super().apply(request, response)
        response.reset = True


@dataclass(eq=False)
class WrongLength(BodyFault):
    """A Content-Length that is ``by`` bytes too large, or too small if negative.

    The whole body is sent, and the connection closed after it without a word of that.
    """

    by: int

    def apply(self, request: Request, response: Response) -> None:
        response.headers["Content-Length"] = str(max(0, response.length + self.by))
        response.close = True


@dataclass(eq=False)
class CloseConnection(Fault):
    """No keep-alive: the connection is closed after the response, ``announced`` by a header or not."""

    announced: bool = True

    def apply(self, request: Request, response: Response) -> None:
        response.close = True
        response.headers["Connection"] = "close" if self.announced else "keep-alive"


@dataclass(eq=False)
class BlackHole(Fault):
    """No answer at all. Switched off, the connection is closed without one."""

    def apply(self, request: Request, response: Response) -> None:
        response.before_headers.append(Pause(None, self.released))
        response.silent = True


# A slow connection


@dataclass(eq=False)
class Delay(Fault):
    """An answer that comes ``seconds`` late."""

    seconds: float

    def apply(self, request: Request, response: Response) -> None:
        response.before_headers.append(Pause(self.seconds, self.released))


@dataclass(eq=False)
class Stall(BodyFault):
    """Silence after so many bytes of a body, for ``seconds`` or until switched off. Then the rest follows."""

    after_bytes: int
    seconds: float | None = None

    def touches(self, response: Response) -> bool:
        return response.length > self.after_bytes

    def apply(self, request: Request, response: Response) -> None:
        response.pauses.append(Pause(self.seconds, self.released, self.after_bytes))


@dataclass(eq=False)
class Slow(BodyFault):
    """No more than ``rate`` bytes a second on each connection, in steps of a fiftieth of a second."""

    rate: float

    def apply(self, request: Request, response: Response) -> None:
        step = max(1, int(self.rate / 50))
        response.pace = Pace(step, step / self.rate, self.released)


@dataclass(eq=False)
class Trickle(BodyFault):
    """One byte of the body every ``interval`` seconds."""

    interval: float

    def apply(self, request: Request, response: Response) -> None:
        response.pace = Pace(1, self.interval, self.released)


# A Hub that says wrong things of its files


class ListingFault(Fault):
    """A fault of what the API says of a commit's files. It strikes the tree, and the siblings of the model's info."""

    def edit(self, files: list[File]) -> list[File]:
        """Return what the API is to list in place of ``files``."""
        raise NotImplementedError


@dataclass(eq=False)
class WrongChecksum(ListingFault):
    """Checksums of other content: the SHA-256 of files in LFS, git's blob id of all. ``file`` is a glob."""

    file: str = "*"

    def edit(self, files: list[File]) -> list[File]:
        return [self._wrong(file) if fnmatch.fnmatchcase(file.path, self.file) else file for file in files]

    def _wrong(self, file: File) -> File:
        lfs = file.lfs and replace(file.lfs, sha256=_other_digest(file.lfs.sha256))
        return replace(file, oid=_other_digest(file.oid), lfs=lfs)


def _other_digest(digest: str) -> str:
    # The reverse could be the same, a changed first digit cannot.
    return f"{(int(digest[0], 16) + 1) % 16:x}{digest[1:]}"


@dataclass(eq=False)
class WrongSize(ListingFault):
    """Sizes that are ``by`` bytes off. ``file`` is a glob."""

    by: int
    file: str = "*"

    def edit(self, files: list[File]) -> list[File]:
        return [self._wrong(file) if fnmatch.fnmatchcase(file.path, self.file) else file for file in files]

    def _wrong(self, file: File) -> File:
        size = max(0, file.size + self.by)
        return replace(file, size=size, lfs=file.lfs and replace(file.lfs, size=size))


@dataclass(eq=False)
class ExtraFiles(ListingFault):
    """More files than the commit has, under any name: ``../x``, ``/etc/x``, one that is there already.

    The Hub serves them too, with ``content``, so that a client that takes such a name really writes it.
    """

    paths: Collection[str]
    content: bytes = b"not a part of this model\n"
    lfs: Lfs | None = None
    oid: str = "0123456789abcdef0123456789abcdef01234567"

    def edit(self, files: list[File]) -> list[File]:
        return [*files, *self.files()]

    def files(self) -> list[File]:
        """Return the files that it adds."""
        return [File(path, len(self.content), self.oid, self.content, self.lfs) for path in self.paths]


class Faults:
    """The faults that are switched on. They are applied in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[Fault] = []

    def __iter__(self) -> Iterator[Fault]:
        with self._lock:
            return iter(list(self._active))

    def add(self, fault: Fault) -> Fault:
        """Switch a fault on, with its counts at zero."""
        with self._lock:
            fault.applied = fault.matched = 0
            fault.released.clear()
            self._active.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Switch a fault off, which ends the silences that it caused. One that is off already stays off."""
        with self._lock:
            self._active = [active for active in self._active if active is not fault]
        fault.released.set()

    def clear(self) -> None:
        """Switch all faults off."""
        for fault in self:
            self.remove(fault)

    def edit_listing(self, request: Request, files: Iterable[File]) -> list[File]:
        """Return what the API is to list in place of a commit's files."""
        listing = list(files)
        for fault in self:
            if isinstance(fault, ListingFault) and fault.matches(request) and self._strikes(fault):
                listing = fault.edit(listing)
        return listing

    def extra_file(self, path: str) -> File | None:
        """Return the file that a fault added to the listings under that path."""
        extra = (file for fault in self if isinstance(fault, ExtraFiles) for file in fault.files())
        return next((file for file in extra if file.path == path), None)

    def edit_response(self, request: Request, response: Response) -> None:
        """Change a response as the faults demand that strike it."""
        for fault in self:
            if isinstance(fault, ListingFault) or not fault.matches(request):
                continue
            if fault.touches(response) and self._strikes(fault):
                fault.apply(request, response)

    def _strikes(self, fault: Fault) -> bool:
        with self._lock:
            fault.matched += 1
            strikes = fault.matched % fault.every == 0 and (fault.times is None or fault.applied < fault.times)
            fault.applied += strikes
        return strikes
