# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP and sources: what is sent where, through which proxy, and what comes of broken addresses.

Transfers are tested through a whole Hub; here two servers, each an origin of its own, note what they are asked.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._errors import HubError, InvalidInput, ModelsError
from ansible_collections.gpufleet.models.plugins.module_utils._http import ConnectionLost, HttpClient, origin_of
from ansible_collections.gpufleet.models.plugins.module_utils._source import USER_AGENT, Hub, Source, Unavailable

TOKEN = "hf_secretsecretsecret"
BODY = b"0123456789"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://hub", ("http", "hub", 80)),
        ("https://hub", ("https", "hub", 443)),
        ("https://hub/a/b?c#d", ("https", "hub", 443)),
        ("https://hub:443", ("https", "hub", 443)),
        ("https://hub:8443/", ("https", "hub", 8443)),
        ("HTTPS://HUB.Example.org", ("https", "hub.example.org", 443)),
        ("http://user:password@hub:8080/", ("http", "hub", 8080)),
        ("http://[::1]:8080/", ("http", "::1", 8080)),
        ("http://127.0.0.1:1/", ("http", "127.0.0.1", 1)),
    ],
)
def test_origin(url: str, origin: tuple[str, str, int]) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        *("", "hub", "hub.example.org/a", "/a", "//hub/a", "ftp://hub", "file:///etc/passwd", "http:", "http://"),
        *(
            "http:///a",
            "http://:80/",
            "http://hub:port",
            "http://hub:99999",
            "http://hub:-1",
            "http://[::1",
            "http://a..b",
        ),
    ],
)
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected (an http or https URL|a URL with a host name)$"):
        origin_of(url)


@given(st.text() | st.text().map(lambda rest: f"https://{rest}"))
def test_any_text_has_an_origin_or_none(url: str) -> None:
    with contextlib.suppress(InvalidInput):
        scheme, host, port = origin_of(url)
        assert scheme in ("http", "https")
        assert host
        assert 0 <= port <= 65535


@pytest.mark.parametrize(
    ("endpoint", "path", "url"),
    [
        ("https://hub", "a.bin", "https://hub/acme/m/resolve/c/a.bin"),
        ("https://hub/", "a/b.bin", "https://hub/acme/m/resolve/c/a/b.bin"),
        ("https://hub/mirror/", "a", "https://hub/mirror/acme/m/resolve/c/a"),
        ("https://hub", "größe+100% #1?.json", "https://hub/acme/m/resolve/c/gr%C3%B6%C3%9Fe%2B100%25%20%231%3F.json"),
        ("https://hub", "a;b&c=d@e:f", "https://hub/acme/m/resolve/c/a%3Bb%26c%3Dd%40e%3Af"),
    ],
)
def test_address_of_a_file(endpoint: str, path: str, url: str) -> None:
    assert Hub(endpoint).file_url("acme/m", "c", path) == url


# Answers. Each is a function of the request, and may answer as it likes.

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Return what answers with these headers; a name's underscores stand for dashes."""

    def respond(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def serve_file(handler: Handler) -> None:
    """Serve the body, or the range of it that is asked for."""
    asked = handler.headers.get("Range")
    if asked is None:
        answer(200, BODY)(handler)
    else:
        start, end = map(int, asked.partition("=")[2].split("-"))
        answer(206, BODY[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(BODY)}")(handler)


class Server(http.server.ThreadingHTTPServer):
    """A server that notes what it is asked, and answers by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_arguments: Any) -> None:
        """Say nothing of clients that went away."""

    def seen(self, name: str) -> list[str | None]:
        """Return a header of each request."""
        return [headers.get(name) for _method, _path, headers in self.requests]


class _Handler(Handler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        self.server.requests.append((self.command, self.path, dict(self.headers.items())))
        self.server.answers.get(self.path, serve_file)(self)

    def do_CONNECT(self) -> None:  # noqa: N802
        self.server.requests.append((self.command, self.path, dict(self.headers.items())))
        self.close_connection = True
        answer(403)(self)

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A Hub and a CDN."""
    with Server() as hub, Server() as cdn:
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (hub, cdn)]
        for thread in threads:
            thread.start()
        yield hub, cdn
        for server, thread in zip((hub, cdn), threads):
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def client(_no_proxy: None) -> Iterator[HttpClient]:
    """The connections of one thread."""
    client = HttpClient(5)
    yield client
    client.close()


def source_of(hub: Server, path: str = "/file", endpoint: str | None = None) -> Source:
    """Return a source for a file of the Hub."""
    return Source(Hub(endpoint or hub.url, TOKEN), hub.url + path, len(BODY))


def any_time(_at_hub: bool) -> AbstractContextManager[None]:
    """Let a request go at once."""
    return nullcontext()


def read(source: Source, client: HttpClient, start: int = 0, end: int = len(BODY)) -> tuple[bytes, bool]:
    """Ask for some bytes; return what came, and whether that is what was asked for."""
    response, as_asked = source.open(client, start, end, any_time)
    return response.read(), as_asked


def test_what_is_sent(servers: tuple[Server, Server], client: HttpClient) -> None:
    hub, _cdn = servers
    assert read(source_of(hub), client) == (BODY, True)
    assert read(source_of(hub), client, 2, 5) == (b"234", True)
    whole, part = (headers for _method, _path, headers in hub.requests)
    host = hub.url.partition("//")[2]
    common = {"Host": host, "User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    assert whole == {**common, "Authorization": f"Bearer {TOKEN}"}
    assert part == {**common, "Authorization": f"Bearer {TOKEN}", "Range": "bytes=2-4"}


def test_token_goes_to_the_hub_alone_which_is_asked_once(servers: tuple[Server, Server], client: HttpClient) -> None:
    hub, cdn = servers
    hub.answers["/file"] = answer(302, Location=f"{cdn.url}/signed?key=1")
    source = source_of(hub)
    assert source._location is None
    assert read(source, client) == (BODY, True)
    assert source._location is not None
    assert read(source, client, 2, 5) == (b"234", True)
    assert [path for _method, path, _headers in hub.requests] == ["/file"]
    assert [path for _method, path, _headers in cdn.requests] == ["/signed?key=1"] * 2
    assert hub.seen("Authorization") == [f"Bearer {TOKEN}"]
    assert cdn.seen("Authorization") == [None, None]
    source.forget_location()
    assert read(source, client) == (BODY, True)
    assert len(hub.requests) == 2


@pytest.mark.parametrize("kind", ["relative", "same origin", "through the CDN"])
def test_token_follows_within_the_hub(servers: tuple[Server, Server], client: HttpClient, kind: str) -> None:
    hub, cdn = servers
    if kind == "through the CDN":
        hub.answers["/file"] = answer(302, Location=f"{cdn.url}/back")
        cdn.answers["/back"] = answer(302, Location=f"{hub.url}/moved")
    else:
        hub.answers["/file"] = answer(307, b"moved", Location="/moved" if kind == "relative" else f"{hub.url}/moved")
    assert read(source_of(hub), client) == (BODY, True)
    assert set(hub.seen("Authorization")) == {f"Bearer {TOKEN}"}
    assert set(cdn.seen("Authorization")) <= {None}


@pytest.mark.parametrize("part", ["host", "port", "scheme"])
def test_other_origin_is_not_the_hub(servers: tuple[Server, Server], client: HttpClient, part: str) -> None:
    """Also when only one part of it differs: the token is not for everyone on the Hub's machine."""
    hub, _cdn = servers
    endpoint = {"host": hub.url.replace("127.0.0.1", "localhost"), "port": "http://127.0.0.1:1"}
    source = source_of(hub, endpoint=endpoint.get(part, hub.url.replace("http", "https")))
    assert read(source, client) == (BODY, True)
    assert hub.seen("Authorization") == [None]


def test_no_token_no_header(servers: tuple[Server, Server], client: HttpClient) -> None:
    hub, _cdn = servers
    assert read(Source(Hub(hub.url), f"{hub.url}/file", len(BODY)), client) == (BODY, True)
    assert hub.seen("Authorization") == [None]


def test_server_that_ignores_ranges(servers: tuple[Server, Server], client: HttpClient) -> None:
    hub, _cdn = servers
    hub.answers["/file"] = answer(200, BODY)
    assert read(source_of(hub), client, 2, 5) == (BODY, False)


def _header(**headers: str) -> Answer:
    return answer(206, b"234", **headers)


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (_header(Content_Range="bytes 2-4/11"), "expected bytes 2-4/10, the server sent 'bytes 2-4/11'"),
        (_header(Content_Range="bytes 3-5/10"), "expected bytes 2-4/10, the server sent 'bytes 3-5/10'"),
        (_header(Content_Range="bytes 2-5/10"), "expected bytes 2-4/10, the server sent 'bytes 2-5/10'"),
        (_header(Content_Range="2-4/10"), "expected bytes 2-4/10, the server sent '2-4/10'"),
        (_header(), "expected bytes 2-4/10, the server sent 'no range'"),
        (_header(Content_Encoding="gzip"), "the server sent it gzip-encoded, which was not asked for"),
        (
            answer(200, b"<html>", Content_Type="text/html"),
            "expected 10 bytes, the server announces 6 of type text/html",
        ),
        (answer(416), "expected 10 bytes, the server says that it has fewer"),
        (answer(503), "HTTP 503 Service Unavailable"),
        (answer(302, Location="/file"), "more than 5 redirects"),
        (answer(302), "more than 5 redirects|redirected to ''"),
        (answer(302, Location="ftp://hub/file"), "redirected to 'ftp://hub/file'"),
        (answer(302, Location="http://hub:port/file"), "redirected to 'http://hub:port/file'"),
        (answer(302, Location="http://[::1/file"), "redirected to "),
    ],
)
def test_answer_that_may_be_another_one_next_time(
    servers: tuple[Server, Server], client: HttpClient, respond: Answer, message: str
) -> None:
    hub, _cdn = servers
    hub.answers["/file"] = respond
    source = source_of(hub)
    with pytest.raises(Unavailable, match=message):
        source.open(client, 2, 5, any_time)
    # Neither the source nor the connection is spoilt.
    del hub.answers["/file"]
    assert read(source, client, 2, 5) == (b"234", True)


def test_content_range_without_the_size_is_believed(servers: tuple[Server, Server], client: HttpClient) -> None:
    servers[0].answers["/file"] = _header(Content_Range="bytes 2-4/*")
    assert read(source_of(servers[0]), client, 2, 5) == (b"234", True)


@pytest.mark.parametrize("location", ["/größe", "/a b", "/a\x01b", "//" + "a" * 70 + "/file", "http://exa mple/file"])
def test_broken_redirect_is_one_sentence(servers: tuple[Server, Server], client: HttpClient, location: str) -> None:
    """Some are what careless servers send, and may even be followed; nothing else than this may come of them."""
    hub, _cdn = servers

    def respond(handler: Handler) -> None:
        raw = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location.encode() + b"\r\n\r\n"
        handler.wfile.write(raw)

    hub.answers["/file"] = respond
    with contextlib.suppress(Unavailable, ConnectionLost):
        assert read(source_of(hub), client)[0] == BODY


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "7", "RateLimit": '"api";r=0;t=55'}, 55),
    ],
)
@pytest.mark.parametrize("at_hub", [True, False], ids=["hub", "cdn"])
def test_delay_that_a_server_asks_for(
    servers: tuple[Server, Server], client: HttpClient, headers: dict[str, str], delay: float | None, at_hub: bool
) -> None:
    """What the Hub asks counts for all files, what a CDN asks for one."""
    hub, cdn = servers
    hub.answers["/file"] = answer(302, Location=f"{cdn.url}/signed")
    (hub.answers if at_hub else cdn.answers)["/file" if at_hub else "/signed"] = answer(429, **headers)
    with pytest.raises(Unavailable, match="HTTP 429") as caught:
        source_of(hub).open(client, 0, 10, any_time)
    assert (caught.value.delay, caught.value.of_hub) == (delay, at_hub)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (404, {}, "^HTTP 404 Not Found$"),
        (
            404,
            {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"},
            "^HTTP 404 no such file; the file is gone",
        ),
        (404, {"X-Error-Code": "RepoNotFound"}, "check its id and the token's rights$"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "lock again with 'upgrade'$"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept the repository's terms on the Hub"),
        (401, {}, "HTTP 401 Unauthorized; check the token and its rights$"),
        (418, {"X-Error-Code": "Unheard"}, "^HTTP 418 "),
    ],
)
def test_refusal_of_the_hub_is_final(
    servers: tuple[Server, Server], client: HttpClient, status: int, headers: dict[str, str], message: str
) -> None:
    hub, _cdn = servers
    hub.answers["/file"] = answer(status, b"x" * 100, **headers)
    with pytest.raises(HubError, match=message) as caught:
        source_of(hub).open(client, 0, 10, any_time)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_address_at_the_cdn_that_expired_is_asked_for_again(
    servers: tuple[Server, Server], client: HttpClient, status: int
) -> None:
    hub, cdn = servers
    hub.answers["/file"] = answer(302, Location=f"{cdn.url}/signed")
    source = source_of(hub)
    assert read(source, client) == (BODY, True)
    cdn.answers["/signed"] = answer(status)
    with pytest.raises(Unavailable, match=f"HTTP {status} .* from 127.0.0.1"):
        source.open(client, 0, 10, any_time)
    assert source._location is None
    del cdn.answers["/signed"]
    assert read(source, client) == (BODY, True)
    assert len(hub.requests) == 2


# Connections.


def test_connection_is_kept_and_made_again(servers: tuple[Server, Server], client: HttpClient) -> None:
    hub, _cdn = servers
    ports = []
    hub.answers["/port"] = lambda handler: (ports.append(handler.client_address[1]), answer(200)(handler))[0]

    def close(handler: Handler) -> None:
        hub.answers["/port"](handler)
        handler.close_connection = True  # without having said so

    hub.answers["/close"] = close
    for path in ("/port", "/port", "/close", "/port"):
        assert client.get(hub.url + path, {}).read() == b""
    assert ports[0] == ports[1] == ports[2] != ports[3]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://" + "a" * 70 + "/", "http://a b/", "ftp://a/"])
def test_no_answer(client: HttpClient, url: str) -> None:
    with pytest.raises((ConnectionLost, ModelsError)):
        client.get(url, {})


def test_abort_breaks_a_request_that_waits(servers: tuple[Server, Server], client: HttpClient) -> None:
    hub, _cdn = servers
    asked, done = threading.Event(), threading.Event()
    hub.answers["/wait"] = lambda _handler: (asked.set(), done.wait(20))[0]
    failed = []

    def ask() -> None:
        try:
            client.get(f"{hub.url}/wait", {})
        except ConnectionLost as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(5)
    while thread.is_alive():
        client.abort()
        thread.join(0.05)
    done.set()
    assert len(failed) == 1


# Proxies.


@pytest.mark.parametrize("proxy", ["http://{}", "{}", "http://user:p%40ss@{}"], ids=["url", "host", "credentials"])
def test_plain_requests_go_through_the_proxy(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    _hub, through = servers
    monkeypatch.setenv("http_proxy", proxy.format(through.url.partition("//")[2]))
    client = HttpClient(5)
    assert client.get("http://hub.invalid:8080/a?b=c", {"X": "1"}).read() == BODY
    client.close()
    ((method, path, headers),) = through.requests
    assert (method, path, headers["Host"], headers["X"]) == (
        "GET",
        "http://hub.invalid:8080/a?b=c",
        "hub.invalid:8080",
        "1",
    )
    credentials = "Basic " + base64.b64encode(b"user:p@ss").decode() if "user" in proxy else None
    assert headers.get("Proxy-Authorization") == credentials


def test_encrypted_requests_go_through_a_tunnel_that_sees_no_token(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    _hub, through = servers
    monkeypatch.setenv("https_proxy", through.url.replace("//", "//user:password@"))
    client = HttpClient(5)
    with pytest.raises(ConnectionLost, match="403"):
        client.get("https://hub.invalid/a", {"Authorization": f"Bearer {TOKEN}"})
    client.close()
    ((method, target, headers),) = through.requests
    assert (method, target) == ("CONNECT", "hub.invalid:443")
    assert headers["Proxy-Authorization"].startswith("Basic ")
    assert TOKEN not in str(through.requests)


@pytest.mark.parametrize("no_proxy", ["*", "127.0.0.1", "localhost,127.0.0.1", "127.0.0.1:{port}"])
def test_hosts_without_a_proxy(servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    hub, through = servers
    monkeypatch.setenv("http_proxy", through.url)
    monkeypatch.setenv("no_proxy", no_proxy.format(port=hub.server_port))
    client = HttpClient(5)
    assert client.get(f"{hub.url}/a", {}).read() == BODY
    client.close()
    assert [path for _method, path, _headers in hub.requests] == ["/a"]
    assert through.requests == []


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1", "http://127.0.0.1:1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, scheme: str, proxy: str) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises((ConnectionLost, ModelsError)):
        HttpClient(5).get(f"{scheme}://127.0.0.1:1/", {})
