"""Every fault does what it says, where it says it, and nothing once it is switched off."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.client import connect, fetch, send
from tests.hub.conftest import REPO
from tests.hub.faults import (
    BlackHole,
    CloseConnection,
    Delay,
    ExtraFiles,
    Fault,
    Flip,
    Gzip,
    Html,
    HugeJson,
    IgnoreRange,
    MalformedJson,
    Redirect,
    RedirectLoop,
    Reset,
    Slow,
    Stall,
    Status,
    Trickle,
    Truncate,
    WrongChecksum,
    WrongContentRange,
    WrongLength,
    WrongSize,
    rate_limited,
)

# Long enough for a server that answers to have done so, a few times over where it decides nothing.
SILENCE = 0.3


def config(hub: Hub) -> str:
    return f"{hub.endpoint}/{REPO}/resolve/main/config.json"


def tree(hub: Hub) -> list[dict[str, Any]]:
    reply = fetch(f"{hub.endpoint}/api/models/{REPO}/tree/main?recursive=true")
    entries: list[dict[str, Any]] = json.loads(reply.body)
    return entries


# Which requests are struck


@pytest.mark.parametrize(
    ("match", "struck"),
    [
        ({}, True),
        ({"origin": "hub"}, True),
        ({"origin": "cdn"}, False),
        ({"method": "GET"}, True),
        ({"method": "HEAD"}, False),
        ({"path": "*/config.json"}, True),
        ({"path": "/acme/tiny/resolve/*"}, True),
        ({"path": "*/tree/*"}, False),
    ],
)
def test_matching(hub: Hub, match: dict[str, str], struck: bool) -> None:
    with hub.fault(Status(503, **match)) as fault:  # type: ignore[arg-type]
        assert fetch(config(hub)).status == (503 if struck else 200)
        assert fault.applied == struck
    assert fetch(config(hub)).status == 200


def test_times_and_every(hub: Hub) -> None:
    with hub.fault(Status(503, times=2)) as fault:
        assert [fetch(config(hub)).status for _attempt in range(4)] == [503, 503, 200, 200]
        assert (fault.matched, fault.applied) == (4, 2)
    with hub.fault(Status(503, every=3)):
        assert [fetch(config(hub)).status for _attempt in range(7)] == [200, 200, 503, 200, 200, 503, 200]
    with hub.fault(Status(503, every=2, times=1)):
        assert [fetch(config(hub)).status for _attempt in range(4)] == [200, 503, 200, 200]


def test_adding_removing_clearing(hub: Hub) -> None:
    fault = hub.faults.add(Status(500))
    hub.faults.add(Status(503, path="*/tree/*"))
    assert fetch(config(hub)).status == 500
    hub.faults.remove(fault)
    hub.faults.remove(fault)
    assert fetch(config(hub)).status == 200
    assert len(list(hub.faults)) == 1
    hub.faults.clear()
    assert tree(hub)


def test_faults_add_up(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    for fault in (Flip(offset=10), Flip(offset=20), Truncate(100)):
        hub.faults.add(fault)
    with pytest.raises(http.client.IncompleteRead) as cut:
        fetch(gguf_link)
    wrong = bytearray(gguf_file[:100])
    wrong[10] ^= 1
    wrong[20] ^= 1
    assert cut.value.partial == wrong


# Answers of another kind


@pytest.mark.parametrize("status", [401, 403, 404, 408, 418, 500, 502, 503, 504, 599])
def test_status(hub: Hub, status: int) -> None:
    with hub.fault(Status(status, {"X-Error-Code": "Why", "Retry-After": "7"}, "no")):
        reply = fetch(config(hub))
        assert (reply.status, reply.body) == (status, b"no")
        assert (reply.headers["X-Error-Code"], reply.headers["Retry-After"]) == ("Why", "7")
        assert "X-Repo-Commit" not in reply.headers
        assert fetch(config(hub), method="HEAD").status == status


def test_rate_limited(hub: Hub) -> None:
    with hub.fault(rate_limited(55, times=1)):
        reply = fetch(config(hub))
    assert reply.status == 429
    assert reply.headers["RateLimit"] == '"api";r=0;t=55'
    assert reply.headers["RateLimit-Policy"] == '"fixed window";"api";q=500;w=300'
    assert reply.headers["Retry-After"] == "55"
    with hub.fault(rate_limited(55, resource="resolvers", quota=3000, retry_after=False)):
        reply = fetch(config(hub))
    assert reply.headers["RateLimit-Policy"] == '"fixed window";"resolvers";q=3000;w=300'
    assert "Retry-After" not in reply.headers


def test_html(hub: Hub, gguf_link: str) -> None:
    with hub.fault(Html()):
        for address in (config(hub), gguf_link, f"{hub.endpoint}/api/models/{REPO}"):
            reply = fetch(address, {"Range": "bytes=0-9"})
            assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert reply.body.startswith(b"<!DOCTYPE html>")
            assert "Content-Range" not in reply.headers


def test_redirect(hub: Hub) -> None:
    with hub.fault(Redirect("http://127.0.0.1:1/elsewhere", 308, times=1)):
        reply = fetch(config(hub))
    assert (reply.status, reply.headers["Location"]) == (308, "http://127.0.0.1:1/elsewhere")
    with hub.fault(RedirectLoop()):
        reply = fetch(config(hub))
        assert reply.status == 302
        assert hub.endpoint + reply.headers["Location"] == config(hub)


def test_malformed_json(hub: Hub) -> None:
    url = f"{hub.endpoint}/api/models/{REPO}"
    with hub.fault(MalformedJson()):
        reply = fetch(url)
        assert reply.status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(reply.body)
        # Nothing but the API's answers is struck, not a model's own files.
        assert fetch(config(hub)).body == hub_file(hub, "config.json")
    assert json.loads(fetch(url).body)["id"] == REPO


def test_huge_json(hub: Hub) -> None:
    url = f"{hub.endpoint}/api/models/{REPO}"
    right = json.loads(fetch(url).body)
    with hub.fault(HugeJson(3 * 1024 * 1024 + 1)):
        reply = fetch(url)
    assert len(reply.body) > 3 * 1024 * 1024
    assert json.loads(reply.body) == right


# Wrong content


@pytest.mark.parametrize(("first", "last"), [(0, 7_000), (5_000, 5_000), (4_999, 5_001), (5_000, 6_000), (0, 5_000)])
def test_flip(hub: Hub, gguf_link: str, gguf_file: bytes, first: int, last: int) -> None:
    wrong = bytearray(gguf_file)
    wrong[5_000] ^= 1
    with hub.fault(Flip(5_000, path="*.gguf")) as fault:
        reply = fetch(gguf_link, {"Range": f"bytes={first}-{last}"})
        assert reply.body == wrong[first : last + 1]
        assert reply.headers["Content-Length"] == str(len(reply.body))
        assert fault.applied == 1


def test_flip_strikes_only_who_gets_the_byte(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with hub.fault(Flip(5_000, times=1)) as fault:
        assert fetch(gguf_link, {"Range": "bytes=0-4999"}).body == gguf_file[:5_000]
        assert fetch(gguf_link, {"Range": "bytes=5001-"}).body == gguf_file[5_001:]
        assert fetch(gguf_link, method="HEAD").status == 200
        assert fault.applied == 0
        assert fetch(gguf_link).body != gguf_file
        assert fetch(gguf_link).body == gguf_file
    with hub.fault(Flip(5, mask=0xFF)):
        assert fetch(config(hub)).body[5] == hub_file(hub, "config.json")[5] ^ 0xFF


def hub_file(hub: Hub, path: str) -> bytes:
    commit = hub.repositories[REPO].resolve("main")
    assert commit is not None
    source = commit.files[path].source
    assert isinstance(source, Path)
    return source.read_bytes()


def test_ignore_range(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with hub.fault(IgnoreRange()):
        reply = fetch(gguf_link, {"Range": "bytes=100-199"})
    assert (reply.status, reply.body) == (200, gguf_file)
    assert "Content-Range" not in reply.headers
    assert hub.stats.ranges("*.gguf") == [("bytes=100-199", 0, len(gguf_file))]


def test_wrong_content_range(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with hub.fault(WrongContentRange(by=50)):
        reply = fetch(gguf_link, {"Range": "bytes=100-199"})
    assert (reply.status, reply.body) == (206, gguf_file[100:200])
    assert reply.headers["Content-Range"] == f"bytes 150-249/{len(gguf_file)}"


def test_gzip(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with hub.fault(Gzip()):
        reply = fetch(gguf_link, {"Accept-Encoding": "identity"})
        assert reply.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(reply.body) == gguf_file
        assert json.loads(gzip.decompress(fetch(f"{hub.endpoint}/api/models/{REPO}").body))["id"] == REPO


# A connection that fails


@pytest.mark.parametrize("after_bytes", [0, 1, 5_000])
def test_truncate(hub: Hub, gguf_link: str, gguf_file: bytes, after_bytes: int) -> None:
    with hub.fault(Truncate(after_bytes)), pytest.raises(http.client.IncompleteRead) as cut:
        fetch(gguf_link)
    assert cut.value.partial == gguf_file[:after_bytes]
    assert cut.value.expected == len(gguf_file) - after_bytes
    assert hub.stats.bytes_sent("cdn") == after_bytes
    # A response that ends sooner is not cut.
    with hub.fault(Truncate(5_000)) as fault:
        assert fetch(gguf_link, {"Range": "bytes=0-4999"}).body == gguf_file[:5_000]
        assert fault.applied == 0


@pytest.mark.parametrize("after_bytes", [0, 5_000])
def test_reset(hub: Hub, gguf_link: str, after_bytes: int) -> None:
    with hub.fault(Reset(after_bytes)), pytest.raises(ConnectionResetError):
        fetch(gguf_link)
    assert hub.stats.bytes_sent("cdn") == after_bytes


def test_a_length_too_large(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with hub.fault(WrongLength(by=10)), pytest.raises(http.client.IncompleteRead) as cut:
        fetch(gguf_link)
    assert (cut.value.partial, cut.value.expected) == (gguf_file, 10)


def test_a_length_too_small(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with hub.fault(WrongLength(by=-10)):
        assert fetch(gguf_link).body == gguf_file[:-10]
    assert hub.stats.bytes_sent("cdn") == len(gguf_file)


@pytest.mark.parametrize("announced", [True, False])
def test_close_connection(hub: Hub, gguf_link: str, gguf_file: bytes, announced: bool) -> None:
    with hub.fault(CloseConnection(announced)), closing(connect(gguf_link)) as connection:
        response = send(connection, gguf_link)
        assert response.will_close is announced
        assert response.read() == gguf_file
        socket = connection.sock
        if socket is not None:
            assert socket.recv(1) == b""


def test_black_hole(hub: Hub) -> None:
    with hub.fault(BlackHole()) as fault, closing(connect(hub.endpoint)) as connection:
        connection.timeout = SILENCE
        with pytest.raises(TimeoutError):
            send(connection, config(hub))
        wait_for(lambda: fault.applied == 1)
        assert hub.stats.exchanges("hub")[-1].status is None
    assert fetch(config(hub)).status == 200


def test_a_black_hole_that_is_switched_off(hub: Hub) -> None:
    fault = hub.faults.add(BlackHole())
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(fetch(config(hub)))
        except http.client.RemoteDisconnected as exception:
            outcome.append(exception)

    client = threading.Thread(target=ask, daemon=True)
    client.start()
    wait_for(lambda: fault.applied == 1)
    hub.faults.remove(fault)
    client.join(60)
    assert [type(answer) for answer in outcome] == [http.client.RemoteDisconnected]


# A slow connection


def test_delay(hub: Hub) -> None:
    started = time.monotonic()
    with hub.fault(Delay(SILENCE)):
        assert fetch(config(hub)).status == 200
    assert time.monotonic() - started >= SILENCE


def test_stall(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with closing(connect(gguf_link)) as connection:
        with hub.fault(Stall(after_bytes=3_000)):
            response = send(connection, gguf_link)
            assert response.read(3_000) == gguf_file[:3_000]
            assert connection.sock is not None
            connection.sock.settimeout(SILENCE)
            with pytest.raises(TimeoutError):
                connection.sock.recv(1)
            connection.sock.settimeout(60)
        # Read from the socket: http.client's reader refuses to go on after a timeout.
        rest = b""
        while len(rest) < len(gguf_file) - 3_000:
            rest += connection.sock.recv(65536)
        assert rest == gguf_file[3_000:]


def test_a_stall_that_ends(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    started = time.monotonic()
    with hub.fault(Stall(after_bytes=3_000, seconds=SILENCE)):
        assert fetch(gguf_link).body == gguf_file
    assert time.monotonic() - started >= SILENCE


def test_slow(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    started = time.monotonic()
    with hub.fault(Slow(rate=2 * len(gguf_file))):
        assert fetch(gguf_link).body == gguf_file
    assert time.monotonic() - started >= 0.45


def test_slow_is_smooth_and_ends_when_switched_off(hub: Hub, gguf_link: str, gguf_file: bytes) -> None:
    with closing(connect(gguf_link)) as connection:
        # The whole file would take minutes.
        with hub.fault(Slow(rate=50)):
            response = send(connection, gguf_link)
            parts = [response.read1() for _attempt in range(3)]
            assert sum(len(part) for part in parts) < len(gguf_file)
        assert b"".join([*parts, response.read()]) == gguf_file


def test_trickle(hub: Hub) -> None:
    started = time.monotonic()
    with hub.fault(Trickle(0.02)):
        reply = fetch(config(hub), {"Range": "bytes=0-19"})
    assert len(reply.body) == 20
    assert time.monotonic() - started >= 0.35


# Wrong listings


def test_wrong_checksum(hub: Hub, gguf_file: bytes) -> None:
    right = {entry["path"]: entry for entry in tree(hub)}
    with hub.fault(WrongChecksum(file="tiny-*")):
        wrong = {entry["path"]: entry for entry in tree(hub)}
        info = json.loads(fetch(f"{hub.endpoint}/api/models/{REPO}?blobs=true").body)
    assert {path for path in right if right[path] != wrong[path]} == {"tiny-Q4_0.gguf"}
    assert right["tiny-Q4_0.gguf"]["lfs"]["oid"] == hashlib.sha256(gguf_file).hexdigest()
    assert wrong["tiny-Q4_0.gguf"]["lfs"]["oid"] != right["tiny-Q4_0.gguf"]["lfs"]["oid"]
    assert len(wrong["tiny-Q4_0.gguf"]["lfs"]["oid"]) == 64
    assert wrong["tiny-Q4_0.gguf"]["oid"] != right["tiny-Q4_0.gguf"]["oid"]
    (sibling,) = [sibling for sibling in info["siblings"] if sibling["rfilename"] == "tiny-Q4_0.gguf"]
    assert sibling["lfs"]["sha256"] == wrong["tiny-Q4_0.gguf"]["lfs"]["oid"]


def test_wrong_size(hub: Hub) -> None:
    right = {entry["path"]: entry for entry in tree(hub)}
    with hub.fault(WrongSize(by=-5, file="*.gguf")):
        wrong = {entry["path"]: entry for entry in tree(hub)}
    assert {path for path in right if right[path] != wrong[path]} == {"tiny-Q4_0.gguf"}
    assert wrong["tiny-Q4_0.gguf"]["size"] == right["tiny-Q4_0.gguf"]["size"] - 5
    assert wrong["tiny-Q4_0.gguf"]["lfs"]["size"] == right["tiny-Q4_0.gguf"]["size"] - 5


def test_extra_files(hub: Hub) -> None:
    right = [entry["path"] for entry in tree(hub)]
    names = ["../x", "/etc/x", "a\\b", "nul\0byte", "CONFIG.JSON", "config.json", ".", "a/../../b", "new\nline"]
    with hub.fault(ExtraFiles(names, b"evil")):
        assert sorted(entry["path"] for entry in tree(hub)) == sorted(right + names)
        info = json.loads(fetch(f"{hub.endpoint}/api/models/{REPO}").body)
        assert {sibling["rfilename"] for sibling in info["siblings"]} >= set(names)
        assert fetch(f"{hub.endpoint}/{REPO}/resolve/main/..%2Fx").body == b"evil"
        assert fetch(f"{hub.endpoint}/{REPO}/resolve/main/nul%00byte").body == b"evil"
        assert fetch(config(hub)).body == hub_file(hub, "config.json")
    assert [entry["path"] for entry in tree(hub)] == right
    assert fetch(f"{hub.endpoint}/{REPO}/resolve/main/..%2Fx").status == 404


# No fault outlives the Hub


@pytest.mark.parametrize(
    "fault",
    [BlackHole(), Delay(1e6), Stall(10), Stall(10, 1e6), Slow(1), Trickle(1e6)],
    ids=lambda fault: type(fault).__name__,
)
def test_closing_does_not_wait_for_a_fault(model: Path, fault: Fault) -> None:
    hub = Hub().start()
    hub.add_repo(REPO, model)
    hub.faults.add(fault)
    with closing(connect(hub.endpoint)) as connection:
        connection.request("GET", f"/{REPO}/resolve/main/tokenizer.json")
        wait_for(lambda: fault.applied == 1)
        closer = threading.Thread(target=hub.close, daemon=True)
        closer.start()
        closer.join(60)
        assert not closer.is_alive()


def test_a_client_that_goes_away_ends_a_silence(hub: Hub) -> None:
    before = threading.active_count()
    with hub.fault(BlackHole()) as fault:
        with closing(connect(hub.endpoint)) as connection:
            connection.request("GET", f"/{REPO}/resolve/main/config.json")
            wait_for(lambda: fault.applied == 1)
        wait_for(lambda: threading.active_count() <= before)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so. What never becomes so fails the test, after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
