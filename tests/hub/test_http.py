"""Ranges, headers, signatures, connections and counters, seen without the help of a clever client."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.hub import Hub, factory
from tests.hub.client import connect, fetch, send
from tests.hub.conftest import REPO, TOKEN


@pytest.fixture(params=["hub", "cdn"])
def address(request: pytest.FixtureRequest, hub: Hub, model: Path) -> Iterator[tuple[str, bytes]]:
    """The address of a file at each origin, and its content."""
    if request.param == "hub":
        yield f"{hub.endpoint}/{REPO}/resolve/main/tokenizer.json", (model / "tokenizer.json").read_bytes()
    else:
        yield request.getfixturevalue("gguf_link"), request.getfixturevalue("gguf_file")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-199", slice(100, 200)),
        ("bytes=1000-", slice(1000, None)),
        ("bytes=1000-999999999", slice(1000, None)),
        ("bytes=-100", slice(-100, None)),
        ("bytes=-999999999", slice(0, None)),
    ],
)
def test_a_range(address: tuple[str, bytes], header: str, part: slice) -> None:
    url, content = address
    first, stop, _step = part.indices(len(content))
    reply = fetch(url, {"Range": header})
    assert reply.status == 206
    assert reply.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(content)}"
    assert reply.headers["Content-Length"] == str(stop - first)
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.body == content[part]


@pytest.mark.parametrize("header", ["bytes=1000000000-", "bytes=1000000000-1000000001", "bytes=-0"])
def test_a_range_that_cannot_be_satisfied(address: tuple[str, bytes], header: str) -> None:
    url, content = address
    reply = fetch(url, {"Range": header})
    assert reply.status == 416
    assert reply.headers["Content-Range"] == f"bytes */{len(content)}"
    assert reply.body == b""


@pytest.mark.parametrize("header", ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=-", "bytes=a-b", "bytes 0-1"])
def test_a_range_to_be_ignored(address: tuple[str, bytes], header: str) -> None:
    url, content = address
    reply = fetch(url, {"Range": header})
    assert reply.status == 200
    assert reply.body == content


def test_if_range(address: tuple[str, bytes]) -> None:
    url, content = address
    etag = fetch(url).headers["ETag"]
    assert fetch(url, {"Range": "bytes=1-2", "If-Range": etag}).body == content[1:3]
    assert fetch(url, {"Range": "bytes=1-2", "If-Range": '"other"'}).body == content


def test_head_says_what_get_would(address: tuple[str, bytes]) -> None:
    url, content = address
    head = fetch(url, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(content))
    assert head.headers["ETag"] == fetch(url).headers["ETag"]


def test_a_file_in_git(hub: Hub) -> None:
    commit = hub.repositories[REPO].resolve("main")
    assert commit is not None
    head = fetch(f"{hub.endpoint}/{REPO}/resolve/main/config.json", method="HEAD")
    assert head.headers["X-Repo-Commit"] == commit.id
    assert head.headers["ETag"] == f'"{commit.files["config.json"].oid}"'
    assert "Location" not in head.headers


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_file_in_lfs(hub: Hub, method: str) -> None:
    commit = hub.repositories[REPO].resolve("main")
    assert commit is not None
    file = commit.files["tiny-Q4_0.gguf"]
    assert file.lfs is not None
    reply = fetch(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf", method=method)
    assert reply.status == 302
    assert reply.headers["X-Repo-Commit"] == commit.id
    assert reply.headers["X-Linked-Etag"] == f'"{file.lfs.sha256}"'
    assert reply.headers["X-Linked-Size"] == str(file.size)
    assert reply.headers["Location"].startswith(f"{hub.cdn_endpoint}/")
    # What identifies the file is on the redirection alone, the CDN knows no commits and gives no digest.
    cdn = fetch(reply.headers["Location"], method="HEAD")
    assert "X-Repo-Commit" not in cdn.headers
    assert file.lfs.sha256 not in cdn.headers["ETag"]


def test_a_file_in_git_behind_a_relative_redirection(model: Path) -> None:
    with Hub(resolve_cache=True) as hub:
        commit = hub.add_repo(REPO, model).resolve("main")
        assert commit is not None
        path = quote("extra files/größe+100% #1.json")
        reply = fetch(f"{hub.endpoint}/{REPO}/resolve/main/{path}")
        assert reply.status == 307
        assert reply.headers["X-Repo-Commit"] == commit.id
        assert reply.headers["Location"].startswith(f"/api/resolve-cache/models/{REPO}/{commit.id}/{path}?")
        reply = fetch(f"{hub.endpoint}{reply.headers['Location']}", {"Range": "bytes=1-1"})
        assert (reply.status, reply.body) == (206, b"}")


def test_signed_addresses(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    bare, _separator, query = gguf_link.partition("?")
    expires = parse_qs(query)["Expires"][0]
    assert fetch(gguf_link).body == gguf_file
    other_file = bare.replace("tiny-Q4_0.gguf", "other.gguf")
    later = gguf_link.replace(f"Expires={expires}", f"Expires={int(expires) + 1}")
    for address in (bare, f"{bare}?Expires={expires}", f"{other_file}?{query}", later):
        assert fetch(address).status == 403
    hub.cdn.expire_links()
    assert fetch(gguf_link, {"Range": "bytes=0-1"}).status == 403
    renewed = fetch(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf").headers["Location"]
    assert fetch(renewed).body == gguf_file


def test_addresses_expire_by_themselves(hub: Hub) -> None:
    hub.cdn.link_lifetime = 1
    link = fetch(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf").headers["Location"]
    expires = int(parse_qs(urlsplit(link).query)["Expires"][0])
    while time.time() <= expires:
        time.sleep(0.05)
    assert fetch(link).status == 403


def test_unknown_addresses(hub: Hub) -> None:
    assert fetch(f"{hub.endpoint}/api/agent-harnesses").status == 404
    assert fetch(f"{hub.endpoint}/").status == 404
    assert fetch(f"{hub.cdn_endpoint}/").status == 403
    assert fetch(f"{hub.endpoint}/api/models/{REPO}", method="DELETE").status == 405


def test_the_next_page_is_an_absolute_address(hub: Hub) -> None:
    url = f"{hub.endpoint}/api/models/{REPO}/tree/main?recursive=true&limit=3"
    pages = 0
    while url:
        reply = fetch(url)
        pages += 1
        match = re.fullmatch(r'<(http://127.*)>; rel="next"', reply.headers.get("Link", ""))
        url = match[1] if match else ""
    commit = hub.repositories[REPO].resolve("main")
    assert commit is not None
    assert pages == -(-(len(commit.files) + len(commit.directories)) // 3)


def test_a_connection_is_kept_alive(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with closing(connect(gguf_link)) as connection:
        for start in range(0, 5000, 1000):
            response = send(connection, gguf_link, {"Range": f"bytes={start}-{start + 999}"})
            assert not response.will_close
            assert response.read() == gguf_file[start : start + 1000]
        response = send(connection, gguf_link, {"Connection": "close"})
        assert response.will_close
        response.read()
    assert hub.stats.connections == {"cdn": 1}
    assert hub.stats.requests("cdn") == 6


def test_the_counters(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    path = urlsplit(gguf_link).path
    fetch(gguf_link, {"Range": "bytes=0-999"})
    fetch(gguf_link, {"Range": "bytes=1000-"})
    fetch(gguf_link, method="HEAD")
    fetch(f"{hub.endpoint}/{REPO}/resolve/main/config.json", {"User-Agent": "me"})
    size = len(gguf_file)
    assert hub.stats.ranges("*.gguf") == [("bytes=0-999", 0, 1000), ("bytes=1000-", 1000, size - 1000)]
    assert hub.stats.by_path()["cdn", "GET", path] == (2, size)
    assert hub.stats.by_path()["cdn", "HEAD", path] == (1, 0)
    assert hub.stats.requests() == 4
    assert hub.stats.requests("hub") == 1
    assert hub.stats.bytes_sent("cdn") == size
    assert hub.stats.exchanges("hub")[0].request.headers["user-agent"] == "me"
    assert hub.stats.repeated_bytes() == 0

    fetch(gguf_link, {"Range": "bytes=900-1099"})
    assert hub.stats.repeated_bytes("*.gguf") == 200
    fetch(gguf_link, {"Range": "bytes=1000-1009"})
    assert hub.stats.repeated_bytes("*.gguf") == 210

    hub.stats.reset()
    assert (hub.stats.requests(), hub.stats.bytes_sent(), hub.stats.repeated_bytes()) == (0, 0, 0)
    assert hub.stats.connections.total() == 0


def test_connections_are_counted(hub: Hub, gguf_link: str) -> None:
    with ExitStack() as stack:
        for _attempt in range(5):
            send(stack.enter_context(closing(connect(gguf_link))), gguf_link).read()
        assert hub.stats.connections["cdn"] == hub.stats.max_connections["cdn"] == 5
    assert hub.stats.connections["hub"] == 0


@pytest.mark.parametrize(
    ("headers", "query"),
    [({"Authorization": f"Bearer {TOKEN}"}, ""), ({"Cookie": f"token={TOKEN}"}, ""), ({}, f"&token={TOKEN}")],
)
def test_a_token_at_the_cdn_is_seen(hub: Hub, gguf_link: str, headers: dict[str, str], query: str) -> None:
    fetch(f"{hub.endpoint}/{REPO}/resolve/main/config.json", {"Authorization": f"Bearer {TOKEN}"})
    fetch(gguf_link)
    assert not hub.stats.token_seen_at_cdn
    fetch(gguf_link + query, headers)
    assert hub.stats.token_seen_at_cdn


def test_closing_ends_what_is_being_sent(tmp_path: Path) -> None:
    factory.big_file(tmp_path / "big.bin", 64 * 1024 * 1024)
    hub = Hub().start()
    hub.add_repo(REPO, tmp_path)
    link = fetch(f"{hub.endpoint}/{REPO}/resolve/main/big.bin").headers["Location"]
    with closing(connect(link)) as connection, closing(connect(hub.endpoint)) as idle:
        idle.connect()
        response = send(connection, link)
        closer = threading.Thread(target=hub.close, daemon=True)
        closer.start()
        closer.join(60)
        assert not closer.is_alive()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
    with pytest.raises(ConnectionError):
        fetch(link)


def test_another_address(model: Path) -> None:
    """Both origins are there, for clients on other machines."""
    with Hub(address="127.0.0.2") as hub:
        hub.add_repo(REPO, model)
        assert hub.endpoint.startswith("http://127.0.0.2:")
        location = fetch(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf").headers["Location"]
        assert location.startswith(f"{hub.cdn_endpoint}/")
        assert hub.cdn_endpoint.startswith("http://127.0.0.2:")
        assert fetch(location).body == (model / "tiny-Q4_0.gguf").read_bytes()
