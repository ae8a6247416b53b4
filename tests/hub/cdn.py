"""The CDN: signed, expiring addresses for the content of files in Git LFS."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlencode

from .messages import Content, Request, Response, content_response
from .repository import File

_ACCESS_DENIED = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>'


class Cdn:
    """Answers for content that the Hub has signed an address for, and for no other."""

    def __init__(self, link_lifetime: float) -> None:
        self.link_lifetime = link_lifetime
        """How long the addresses signed from now on are valid, in seconds."""
        self._lock = threading.Lock()
        self._key_number = 0
        self._objects: dict[str, tuple[Path | bytes, int]] = {}

    def expire_links(self) -> None:
        """Make all addresses invalid that were signed until now."""
        with self._lock:
            self._key_number += 1

    def link(self, repo_id: str, file: File) -> str:
        """Return path and query of a signed address for the content of a file in LFS."""
        assert file.lfs is not None
        with self._lock:
            self._objects[file.lfs.sha256] = (file.source, file.lfs.size)
        path = f"/repos/{repo_id}/{file.lfs.sha256}/{file.path}"
        expires = math.ceil(time.time() + self.link_lifetime)
        query = urlencode({"Expires": expires, "Signature": self._signature(path, str(expires))})
        return f"{quote(path)}?{query}"

    def answer(self, request: Request) -> Response:
        """Return the file's content, or 403 for a missing, wrong or expired signature."""
        if request.method not in ("GET", "HEAD"):
            return Response(405, {"Allow": "GET, HEAD"})
        expires, signature = request.query.get("Expires", ""), request.query.get("Signature", "")
        expected = self._signature(request.path, expires)
        if not hmac.compare_digest(signature.encode(), expected.encode()) or float(expires) <= time.time():
            return Response(403, {"Content-Type": "application/xml"}, [_ACCESS_DENIED])
        match = re.search(r"/([0-9a-f]{64})/", request.path)
        assert match is not None
        source, size = self._objects[match[1]]
        # The real one's ETag is no digest of the content that a client could use.
        etag = hashlib.md5(match[1].encode(), usedforsecurity=False).hexdigest()
        content = Content(source, size, f'"{etag}-{math.ceil(size / 2**23)}"')
        return content_response(content, request, ignore_range=request.method == "HEAD")

    def _signature(self, path: str, expires: str) -> str:
        message = f"{self._key_number}\n{path}\n{expires}"
        return hmac.new(b"tests.hub", message.encode(), hashlib.sha256).hexdigest()
