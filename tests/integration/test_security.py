# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The token is seen by the Hub and by nobody else, and memory stays small whatever a file's size."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hub import Hub
from tests.hub.faults import Redirect, Slow, Status
from tests.integration.harness import TOKEN, Host, assert_sentence, locked, wait_until

MIB = 1024 * 1024


@pytest.fixture
def gated(hub: Hub, big_directory: Path) -> dict[str, Any]:
    """A model that needs the token, as a lock has it."""
    hub.add_repo("acme/gated", big_directory, gated=True, readers=[TOKEN])
    return locked(hub, "gated", "acme/gated", big_directory)


def files_with(token: str, *directories: Path) -> list[Path]:
    """Return the files that hold a token."""
    return [
        path
        for directory in directories
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and token.encode() in path.read_bytes()
    ]


class CommandLines(threading.Thread):
    """Looks at the arguments of all processes all the time, for a secret."""

    def __init__(self, secret: str) -> None:
        super().__init__(daemon=True)
        self.rounds = 0
        self.found: list[bytes] = []
        self._secret = secret.encode()
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    line = path.read_bytes()
                    if self._secret in line:
                        self.found.append(line)
            self.rounds += 1

    def __enter__(self) -> CommandLines:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self.join()


@pytest.mark.parametrize("through", ["argument", "environment"])
def test_token_is_for_the_hub_alone(host: Host, hub: Hub, tmp_path: Path, gated: dict[str, Any], through: str) -> None:
    arguments = {"token": TOKEN} if through == "argument" else {}
    if through == "environment":
        host.variables = {"HF_TOKEN": TOKEN}
    with CommandLines(TOKEN) as watch:
        locked_ = host.ok(host.lock({"name": "gated", "repo_id": "acme/gated"}, **arguments))
        assert host.locked_models() == [gated]
        with hub.fault(Slow(24 * MIB, origin="cdn")):
            process = host.start_generation(gated, connections=2, **arguments)
            wait_until(lambda: any((host.root / "work").glob("*.json")), "progress is reported")
            assert files_with(TOKEN, tmp_path) == []
            staged = host.ok(process.finish())
        verified = host.ok(host.verify(repair=True, **arguments))
        assert watch.rounds > 5
    assert watch.found == []
    assert {exchange.request.token for exchange in hub.stats.exchanges("hub")} == {TOKEN}
    assert hub.stats.requests("cdn") > 0
    assert not hub.stats.token_seen_at_cdn
    assert files_with(TOKEN, tmp_path) == []
    for result in (locked_, staged, verified):
        assert TOKEN not in result.output


def test_without_a_token_what_is_gated_stays_shut(serving: Host, tiny: dict[str, Any], gated: dict[str, Any]) -> None:
    assert_sentence(serving.generation(tiny, gated), "gated", "401", "terms")
    assert_sentence(serving.generation(tiny, gated, token="hf_wrong"), "gated", "401", "token")
    serving.assert_serves(tiny, generation=1)


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_hub_that_repeats_the_token(host: Host, hub: Hub, gated: dict[str, Any], status: int) -> None:
    """A careless proxy may put what it was sent into its error page."""
    headers = {"X-Error-Message": f"bad header: Bearer {TOKEN}", "X-Request-Id": TOKEN}
    with hub.fault(Status(status, headers, f"you sent {TOKEN}", origin="hub")):
        for result in (
            host.generation(gated, token=TOKEN, retries=0),
            host.lock({"name": "gated", "repo_id": "acme/gated"}, token=TOKEN, timeout=1),
        ):
            assert_sentence(result)
            assert TOKEN not in result.output


def test_redirection_to_another_hub(host: Host, hub: Hub, tmp_path: Path, gated: dict[str, Any]) -> None:
    """Another port of the same host is another origin, and no place for the token."""
    with Hub(tokens=[TOKEN]) as other:
        with hub.fault(Redirect(f"{other.endpoint}/x", origin="hub", path="*/resolve/*")):
            assert_sentence(host.generation(gated, token=TOKEN, retries=0), "gated")
            assert_sentence(host.lock({"name": "gated", "repo_id": "acme/gated"}, token=TOKEN, timeout=2), "acme/gated")
        seen = other.stats.exchanges()
        assert seen
        assert {exchange.request.token for exchange in seen} == {None}


@pytest.mark.parametrize("mistake", ["\u2026", "\n", "\nX-Evil: 1", " b", "\udcff"], ids=repr)
def test_token_that_was_pasted_badly(host: Host, hub: Hub, gated: dict[str, Any], mistake: str) -> None:
    """It is refused in a sentence that does not repeat it, or taken without the line's end; nothing else is sent."""
    for result in (
        host.generation(gated, token=TOKEN + mistake, retries=0),
        host.lock({"name": "gated", "repo_id": "acme/gated"}, token=TOKEN + mistake, timeout=2),
    ):
        assert TOKEN not in result.output
        if result.failed:
            assert_sentence(result, "token")
    assert all("x-evil" not in exchange.request.headers for exchange in hub.stats.exchanges())


class Proxy(ThreadingHTTPServer):
    """A forward proxy for plain http, which remembers who was asked, and with which credentials."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.seen: list[tuple[str, str | None, str | None]] = []


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        credentials = self.headers.get("Proxy-Authorization")
        self.server.seen.append((parts.netloc, self.headers.get("Authorization"), credentials))
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        target = http.client.HTTPConnection(parts.netloc, timeout=30)
        target.request("GET", parts._replace(scheme="", netloc="").geturl(), headers=headers)
        response = target.getresponse()
        self.send_response_only(response.status, response.reason)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        while chunk := response.read(MIB):
            self.wfile.write(chunk)
        target.close()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


def test_through_a_proxy(host: Host, hub: Hub, proxy: Proxy, gated: dict[str, Any]) -> None:
    host.variables = {"http_proxy": f"http://user:pass%40word@127.0.0.1:{proxy.server_port}"}
    host.ok(host.lock({"name": "gated", "repo_id": "acme/gated"}, token=TOKEN))
    asked = len(proxy.seen)
    assert asked
    result = host.ok(host.generation(gated, token=TOKEN))
    host.assert_serves(gated)
    assert len(proxy.seen) - asked == hub.stats.requests() - asked
    hub_address, cdn_address = (urlsplit(url).netloc for url in (hub.endpoint, hub.cdn_endpoint))
    assert {address for address, _token, _credentials in proxy.seen} == {hub_address, cdn_address}
    assert {token for address, token, _credentials in proxy.seen if address == cdn_address} == {None}
    assert {token for address, token, _credentials in proxy.seen if address == hub_address} == {f"Bearer {TOKEN}"}
    assert {credentials for _address, _token, credentials in proxy.seen} == {"Basic dXNlcjpwYXNzQHdvcmQ="}
    assert not hub.stats.token_seen_at_cdn
    assert TOKEN not in result.output
    # What is local needs no proxy, if one says so.
    host.variables["no_proxy"] = "127.0.0.1,localhost"
    proxy.seen.clear()
    host.ok(host.generation(gated, token=TOKEN, root=f"{host.root}-2"))
    assert proxy.seen == []


def test_proxy_that_is_not_there(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    serving.variables = {"http_proxy": "http://user:secret@127.0.0.1:9"}
    result = serving.generation(tiny, big, retries=0)
    assert_sentence(result, "big", "no answer")
    assert "secret" not in result.output
    serving.assert_serves(tiny, generation=1)


def test_peak_memory(host: Host, hub: Hub, tmp_path: Path) -> None:
    """Receiving, hashing and verifying 1 GiB takes at most 200 MiB of memory."""
    source = tmp_path / "huge"
    source.mkdir()
    with (source / "huge.bin").open("wb") as stream:
        stream.truncate(1024 * MIB)
    hub.add_repo("acme/huge", source)
    model = locked(hub, "huge", "acme/huge", source)
    for module, arguments in (("model_generation", {"models": [model]}), ("model_verify", {})):
        process = host.start(module, **arguments)
        peak = 0
        while process.running:
            with contextlib.suppress(OSError):
                # The kernel's own high-water mark, which a process that just ended has no more; getrusage would count
                # the parent's memory too.
                status = Path(f"/proc/{process.popen.pid}/status").read_text(encoding="ascii")
                peak = max([peak, *map(int, re.findall(r"VmHWM:\s+(\d+) kB", status))])
            threading.Event().wait(0.01)
        host.ok(process.finish())
        assert 0 < peak <= 200 * 1024, f"{module} took {peak // 1024} MiB"
    os.truncate(source / "huge.bin", 0)
