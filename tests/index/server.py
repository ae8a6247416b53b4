# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The server."""

from __future__ import annotations

import base64
import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

from .wheels import Wheel

Fault = Literal["missing", "truncated", "flipped", "replaced", "reset", "slow", "silent", "error"]


class Index:
    """An index on loopback. Use it as a context manager.

    :param user: A user with a password, as in a URL, without whom it shows nothing.
    """

    def __init__(self, *wheels: Wheel, user: str | None = None) -> None:
        self.wheels = list(wheels)
        self.user = user
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []
        self.stop = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.index = self  # type: ignore[attr-defined]
        self._server.daemon_threads = True

    def __enter__(self) -> Index:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"http://{user}127.0.0.1:{self.port}/simple"

    @property
    def files(self) -> list[str]:
        """The names of the files that were asked for."""
        return [path.rpartition("/")[2] for path in self.requests if path.startswith("/files/")]

    @contextlib.contextmanager
    def fault(self, wheel: Wheel, fault: Fault) -> Iterator[None]:
        """Serve a file in a wrong way meanwhile."""
        self.faults[wheel.filename] = fault
        try:
            yield
        finally:
            del self.faults[wheel.filename]

    def page(self, name: str) -> str | None:
        """Return the page of a package, or None when there is none."""
        wheels = [wheel for wheel in self.wheels if wheel.name.replace("_", "-") == name]
        if not wheels:
            return None
        links = "".join(
            f'<a href="/files/{wheel.filename}#sha256={wheel.sha256}"{_yanked(wheel)}>{wheel.filename}</a>\n'
            for wheel in wheels
        )
        return f"<!DOCTYPE html><html><body>{links}</body></html>"


def _yanked(wheel: Wheel) -> str:
    return ' data-yanked="broken"' if wheel.yanked else ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        index: Index = self.server.index  # type: ignore[attr-defined]
        if self.command == "GET":
            index.requests.append(self.path)
        if index.user is not None:
            expected = base64.b64encode(index.user.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {expected}":
                self._answer(401, b"who are you?", "text/plain")
                return
        kind, _separator, name = self.path.strip("/").partition("/")
        if kind == "simple":
            page = index.page(name.strip("/"))
            self._answer(200 if page else 404, (page or "no such package").encode(), "text/html")
            return
        wheel = next((wheel for wheel in index.wheels if wheel.filename == name), None)
        fault = index.faults.get(name)
        if wheel is None or fault == "missing":
            self._answer(404, b"no such file", "text/plain")
        elif fault == "error":
            self._answer(500, b"it broke", "text/plain")
        else:
            self._file(index, wheel.content, fault)

    def _file(self, index: Index, content: bytes, fault: Fault | None) -> None:
        if fault == "replaced":
            content = Wheel("another", "1.0").content
        if fault == "flipped":
            middle = len(content) // 3
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if fault == "truncated":
            content = content[: len(content) // 2]
        if fault in ("reset", "slow", "silent") and self.command == "GET":
            self._head(200, len(content), "application/octet-stream")
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif fault == "slow":
                index.stop.wait(3)
                with contextlib.suppress(OSError):
                    self.wfile.write(content[len(content) // 2 :])
            else:
                index.stop.wait(60)
            self.close_connection = True
            return
        self._answer(200, content, "application/octet-stream")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self._head(status, len(content), kind)
        if self.command == "GET":
            with contextlib.suppress(OSError):
                self.wfile.write(content)

    def _head(self, status: int, length: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""
