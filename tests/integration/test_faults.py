# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever the Hub and its CDN do wrong, what is served stays, the user is told why, and the next run goes on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import (
    BlackHole,
    CloseConnection,
    Delay,
    Fault,
    Flip,
    Gzip,
    Html,
    IgnoreRange,
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
    rate_limited,
)
from tests.integration.harness import (
    BLOCK,
    Host,
    assert_not_fetched_again,
    assert_sentence,
    flip,
    locked,
    sha256_of,
    wait_until,
)

MIB = 1024 * 1024

# The three answers that a file can need: in one piece from the Hub, as a redirection from the Hub, as blocks from the
# CDN. Each with the file that the failure must name.
SMALL = {"origin": "hub", "path": "*/config.json"}
LINK = {"origin": "hub", "path": "*/weights.safetensors"}
BLOCKS = {"origin": "cdn", "path": "*/weights.safetensors"}

# A fault that is gone soon, or one that the test waits for, needs neither many attempts nor much patience.
IMPATIENT = {"retries": 1, "stall_timeout": 1}


def dead_port() -> int:
    """Return a port of this machine where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def fail_and_recover(host: Host, tiny: dict[str, Any], big: dict[str, Any], *fragments: str, **arguments: Any) -> None:
    """Require the whole contract of a failed run: nothing changed, a sentence, and a rerun that goes on from there.

    The fault must be on already; this switches all faults off.
    """
    result = host.generation(tiny, big, **{**IMPATIENT, **arguments})
    assert_sentence(result, "big", *fragments)
    assert host.generations() == ["1"]
    host.assert_serves(tiny, generation=1)

    host.hub.faults.clear()
    journals = host.journals(big)
    host.hub.stats.reset()
    host.ok(host.generation(tiny, big))
    host.assert_serves(tiny, big, generation=2)
    assert_not_fetched_again(host.hub, journals, big)


Make = Callable[[Hub, dict[str, Any]], Fault]


def status(code: int, headers: dict[str, str] | None = None) -> Make:
    return lambda _hub, where: Status(code, headers or {}, **where)


def hub_refusal(code: int, error: str) -> Make:
    return status(code, {"X-Error-Code": error, "X-Error-Message": f"message of {error}"})


# Faults that stay: name, where, the fault, and what the message must say beside the model and the file.
LASTING: list[tuple[str, dict[str, str], Make, tuple[str, ...]]] = [
    *((f"{code} small", SMALL, status(code), (str(code),)) for code in (400, 503)),
    *((f"{code} link", LINK, status(code), (str(code),)) for code in (408, 410, 429)),
    *((f"{code} blocks", BLOCKS, status(code), (str(code),)) for code in (403, 404, 416, 429, 500)),
    ("gated 401", LINK, hub_refusal(401, "GatedRepo"), ("401", "terms", "token")),
    ("gated 403", SMALL, hub_refusal(403, "GatedRepo"), ("403", "terms", "token")),
    ("no repo 401", LINK, hub_refusal(401, "RepoNotFound"), ("401", "repository", "token")),
    ("no repo 404", SMALL, hub_refusal(404, "RepoNotFound"), ("404", "repository")),
    ("no revision", LINK, hub_refusal(404, "RevisionNotFound"), ("404", "lock again")),
    ("no entry", SMALL, hub_refusal(404, "EntryNotFound"), ("404", "lock again")),
    ("bad token", LINK, status(401, {"X-Error-Message": "Invalid credentials"}), ("401", "token")),
    ("flip small", SMALL, lambda _hub, where: Flip(offset=5, **where), ("SHA-256", "expected", "found")),
    ("flip block", BLOCKS, lambda _hub, where: Flip(offset=20 * MIB, **where), ("SHA-256", "expected", "found")),
    ("truncated small", SMALL, lambda _hub, where: Truncate(0, **where), ("closed",)),
    ("truncated blocks", BLOCKS, lambda _hub, where: Truncate(0, **where), ("closed",)),
    ("reset small", SMALL, lambda _hub, where: Reset(0, **where), ("connection",)),
    ("reset blocks", BLOCKS, lambda _hub, where: Reset(0, **where), ("connection",)),
    ("length too large", SMALL, lambda _hub, where: WrongLength(10, **where), ("expected",)),
    ("length too small", SMALL, lambda _hub, where: WrongLength(-10, **where), ("expected",)),
    ("blocks too short", BLOCKS, lambda _hub, where: WrongLength(-10, **where), ("closed",)),
    ("stall small", SMALL, lambda _hub, where: Stall(0, **where), ("2 attempts",)),
    ("stall blocks", BLOCKS, lambda _hub, where: Stall(0, **where), ("2 attempts",)),
    ("black hole small", SMALL, lambda _hub, where: BlackHole(**where), ("2 attempts",)),
    ("black hole link", LINK, lambda _hub, where: BlackHole(**where), ("2 attempts",)),
    ("black hole blocks", BLOCKS, lambda _hub, where: BlackHole(**where), ("2 attempts",)),
    ("trickle blocks", BLOCKS, lambda _hub, where: Trickle(0.01, **where), ("2 attempts",)),
    ("content range", BLOCKS, lambda _hub, where: WrongContentRange(**where), ("expected bytes", "the server sent")),
    ("redirect loop small", SMALL, lambda _hub, where: RedirectLoop(**where), ("redirects",)),
    ("redirect loop link", LINK, lambda _hub, where: RedirectLoop(**where), ("redirects",)),
    ("redirect loop blocks", BLOCKS, lambda _hub, where: RedirectLoop(**where), ("redirects",)),
    ("redirect to a file", LINK, lambda _hub, where: Redirect("file:///etc/passwd", **where), ("file:///etc/passwd",)),
    ("redirect to a file small", SMALL, lambda _hub, where: Redirect("file:///etc/passwd", **where), ("file:",)),
    ("redirect from blocks", BLOCKS, lambda _hub, where: Redirect("ftp://127.0.0.1/x", **where), ("ftp:",)),
    ("redirect to nothing", LINK, lambda _hub, where: Redirect("", **where), ()),
    ("redirect to no address", LINK, lambda _hub, where: Redirect("http://[::1", **where), ()),
    ("redirect to no port", LINK, lambda _hub, where: Redirect("http://localhost:99999/x", **where), ()),
    ("redirect with spaces", LINK, lambda hub, where: Redirect(f"{hub.cdn_endpoint}/a b", **where), ()),
    ("redirect to letters", LINK, lambda hub, where: Redirect(f"{hub.cdn_endpoint}/größe", **where), ()),
    (
        "redirect to a dead port",
        LINK,
        lambda _hub, where: Redirect(f"http://127.0.0.1:{dead_port()}/x", **where),
        ("no answer from 127.0.0.1",),
    ),
    ("portal small", SMALL, lambda _hub, where: Html(**where), ("text/html",)),
    ("portal link", LINK, lambda _hub, where: Html(**where), ("text/html",)),
    ("portal blocks", BLOCKS, lambda _hub, where: Html(**where), ("text/html",)),
    ("gzip small", SMALL, lambda _hub, where: Gzip(**where), ("gzip",)),
    ("gzip blocks", BLOCKS, lambda _hub, where: Gzip(**where), ("2 attempts",)),
]


@pytest.mark.parametrize(("name", "where", "make", "fragments"), LASTING, ids=[case[0] for case in LASTING])
def test_lasting_fault(
    serving: Host,
    hub: Hub,
    tiny: dict[str, Any],
    big: dict[str, Any],
    name: str,
    where: dict[str, str],
    make: Make,
    fragments: tuple[str, ...],
) -> None:
    fault = hub.faults.add(make(hub, where))
    fail_and_recover(serving, tiny, big, where["path"].removeprefix("*/"), *fragments)
    assert fault.applied, name


# Faults that end by themselves, or that slow a transfer without stopping it.
PASSING: list[tuple[str, Make]] = [
    *((f"{code} once small", lambda _hub, _where, code=code: Status(code, times=1, **SMALL)) for code in (429, 503)),
    *((f"{code} once link", lambda _hub, _where, code=code: Status(code, times=1, **LINK)) for code in (500, 504)),
    *(
        (f"{code} once blocks", lambda _hub, _where, code=code: Status(code, times=1, **BLOCKS))
        for code in (403, 416, 502)
    ),
    ("every third 503", lambda _hub, _where: Status(503, every=3)),
    ("flip once small", lambda _hub, _where: Flip(offset=5, times=1, **SMALL)),
    ("flip once", lambda _hub, _where: Flip(offset=20 * MIB, times=1, **BLOCKS)),
    ("truncated once small", lambda _hub, _where: Truncate(5, times=1, **SMALL)),
    ("truncated", lambda _hub, _where: Truncate(6 * MIB, **BLOCKS)),
    ("reset", lambda _hub, _where: Reset(6 * MIB, **BLOCKS)),
    ("length too large", lambda _hub, _where: WrongLength(10, **BLOCKS)),
    ("length too small once", lambda _hub, _where: WrongLength(-10, times=1, **BLOCKS)),
    ("stall once", lambda _hub, _where: Stall(5 * MIB, times=1, **BLOCKS)),
    ("stall once small", lambda _hub, _where: Stall(5, times=1, **SMALL)),
    ("black hole once", lambda _hub, _where: BlackHole(times=1, **LINK)),
    ("slow", lambda _hub, _where: Slow(16 * MIB)),
    ("late", lambda _hub, _where: Delay(0.2)),
    ("content range once", lambda _hub, _where: WrongContentRange(times=1, **BLOCKS)),
    ("redirect loop once", lambda _hub, _where: RedirectLoop(times=1, **LINK)),
    ("portal once", lambda _hub, _where: Html(times=1, **LINK)),
    ("gzip once", lambda _hub, _where: Gzip(times=1, **BLOCKS)),
    ("connections closed", lambda _hub, _where: CloseConnection()),
    ("connections closed without a word", lambda _hub, _where: CloseConnection(announced=False)),
]


@pytest.mark.parametrize("make", [case[1] for case in PASSING], ids=[case[0] for case in PASSING])
def test_passing_fault(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any], make: Make) -> None:
    with hub.fault(make(hub, {})) as fault:
        serving.ok(serving.generation(tiny, big, stall_timeout=1))
        assert fault.applied
    serving.assert_serves(tiny, big, generation=2)


# The same while damaged blocks are fetched again, of which one request may be for several.
LASTING_IN_REPAIRS = ("403 blocks", "flip block", "truncated blocks", "stall blocks", "content range", "portal blocks")
PASSING_IN_REPAIRS = ("502 once blocks", "flip once", "truncated", "reset", "stall once")
DAMAGED_BLOCKS = [case for case in LASTING if case[0] in LASTING_IN_REPAIRS]
MENDED_BLOCKS = [
    *(case for case in PASSING if case[0] in PASSING_IN_REPAIRS),
    ("range ignored", lambda _hub, _where: IgnoreRange(**BLOCKS)),
]


@pytest.fixture
def damaged(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> Path:
    """The blob of what is served, with two bad blocks of three."""
    serving.ok(serving.generation(tiny, big))
    blob = serving.blob(sha256_of(big, "weights.safetensors"))
    flip(blob, BLOCK + 5, 2 * BLOCK + 5)
    return blob


@pytest.mark.parametrize(
    ("where", "make", "fragments"), [case[1:] for case in DAMAGED_BLOCKS], ids=[case[0] for case in DAMAGED_BLOCKS]
)
def test_lasting_fault_of_a_repair(
    serving: Host, hub: Hub, damaged: Path, where: dict[str, str], make: Make, fragments: tuple[str, ...]
) -> None:
    bad = damaged.read_bytes()
    fault = hub.faults.add(make(hub, where))
    assert_sentence(serving.verify(repair=True, **IMPATIENT), "big", "weights.safetensors", *fragments)
    assert fault.applied
    # A block is as bad as it was, or good.
    good = [
        index for index in range(3) if bad[index * BLOCK :][:BLOCK] != damaged.read_bytes()[index * BLOCK :][:BLOCK]
    ]
    hub.faults.clear()
    assert serving.verify().corrupt[0]["blocks"] == [index for index in (1, 2) if index not in good]
    serving.ok(serving.verify(repair=True))
    serving.ok(serving.verify())


@pytest.mark.parametrize("make", [case[1] for case in MENDED_BLOCKS], ids=[case[0] for case in MENDED_BLOCKS])
def test_passing_fault_of_a_repair(serving: Host, hub: Hub, damaged: Path, make: Make) -> None:
    with hub.fault(make(hub, {})) as fault:
        serving.ok(serving.verify(repair=True, stall_timeout=1))
        assert fault.applied
    serving.ok(serving.verify())


def test_a_digest_that_the_tree_has_wrong(serving: Host, hub: Hub, tiny: dict[str, Any]) -> None:
    with hub.fault(WrongChecksum(file="weights.safetensors")):
        serving.ok(serving.lock({"name": "big", "repo_id": "acme/big"}))
    (wrong,) = serving.locked_models()
    assert_sentence(serving.generation(tiny, wrong, **IMPATIENT), "weights.safetensors", "SHA-256", "expected", "found")
    serving.assert_serves(tiny, generation=1)


def test_only_the_bad_file_is_fetched_twice(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    with hub.fault(Flip(offset=20 * MIB, times=1, **BLOCKS)):
        serving.ok(serving.generation(tiny, big))
    size = next(file["size"] for file in big["files"] if file["path"] == "weights.safetensors")
    assert hub.stats.bytes_sent("cdn", path="*/weights.safetensors") <= 2 * size
    assert hub.stats.requests("hub", path="*/config.json") == 1


def test_flipped_for_ever_names_both_digests(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    with hub.fault(Flip(offset=20 * MIB, **BLOCKS)):
        result = serving.generation(tiny, big)
    assert_sentence(result, sha256_of(big, "weights.safetensors"), "weights.safetensors", "big")
    assert not list(serving.root.glob("blobs/*/" + sha256_of(big, "weights.safetensors")))


def test_whole_file_although_a_range_was_asked_for(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    size = next(file["size"] for file in big["files"] if file["path"] == "weights.safetensors")
    with hub.fault(IgnoreRange(**BLOCKS)) as fault:
        serving.ok(serving.generation(tiny, big))
        assert fault.applied
    serving.assert_serves(tiny, big, generation=2)
    assert hub.stats.bytes_sent("cdn", path="*/weights.safetensors") <= 2 * size + 16 * MIB


def test_range_ignored_now_and_then(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    with hub.fault(IgnoreRange(every=2, **BLOCKS)), hub.fault(Truncate(9 * MIB, times=3, **BLOCKS)):
        serving.ok(serving.generation(tiny, big, connections=2))
    serving.assert_serves(tiny, big, generation=2)


def test_resumed_without_ranges(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    sha256 = sha256_of(big, "weights.safetensors")
    with hub.fault(Slow(16 * MIB, **BLOCKS)):
        process = serving.start_generation(tiny, big, connections=1)
        wait_until(lambda: bool(serving.journal(sha256)), "a block is journalled")
        assert process.kill()
    with hub.fault(IgnoreRange(**BLOCKS)), hub.fault(Truncate(18 * MIB, times=1, **BLOCKS)):
        serving.ok(serving.generation(tiny, big, connections=4))
    serving.assert_serves(tiny, big, generation=2)


def test_addresses_that_expire_in_the_middle(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    hub.cdn.link_lifetime = 0.5  # rounded up to a full second
    with hub.fault(Slow(12 * MIB, **BLOCKS)):
        serving.ok(serving.generation(tiny, big, connections=1))
    serving.assert_serves(tiny, big, generation=2)
    assert hub.stats.repeated_bytes("*/weights.safetensors", "cdn") == 0


def test_addresses_that_are_expired_all_the_time(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    hub.cdn.link_lifetime = -5
    result = serving.generation(tiny, big, **IMPATIENT)
    assert_sentence(result, "weights.safetensors", "big", "403")
    hub.cdn.link_lifetime = 3600
    fail = serving.ok(serving.generation(tiny, big))
    assert fail.changed


@pytest.mark.parametrize("retry_after", [True, False], ids=["Retry-After", "RateLimit"])
@pytest.mark.parametrize("where", [SMALL, LINK, BLOCKS], ids=["small", "link", "blocks"])
def test_waits_as_long_as_the_server_says(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any], where: dict[str, str], retry_after: bool
) -> None:
    with hub.fault(rate_limited(1, retry_after=retry_after, times=1, **where)) as fault:
        process = serving.start_generation(tiny, big, connections=1)
        wait_until(lambda: bool(fault.applied), "the refusal")
        refused = time.monotonic()
        serving.ok(process.finish())
        assert time.monotonic() - refused >= 1
    serving.assert_serves(tiny, big, generation=2)
    if where["origin"] == "hub":
        # What the Hub asks of one connection holds for all: nobody else knocks meanwhile.
        assert fault.applied == 1


def test_nobody_asks_the_hub_while_it_wants_to_be_left_alone(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    with hub.fault(rate_limited(2, times=1, **LINK)) as fault:
        process = serving.start_generation(tiny, big, connections=8)
        wait_until(lambda: bool(fault.applied), "the refusal")
        time.sleep(1.5)
        assert hub.stats.requests("hub", path="*/weights.safetensors") == 1
        serving.ok(process.finish())
    serving.assert_serves(tiny, big, generation=2)


def test_more_waiting_than_there_is_time(serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    hub.faults.add(rate_limited(600, **LINK))
    start = time.monotonic()
    fail_and_recover(serving, tiny, big, "weights.safetensors", "429", "600", timeout=20)
    assert time.monotonic() - start < 15


def test_everything_must_be_done_within_the_timeout(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    hub.faults.add(Slow(6 * MIB, **BLOCKS))
    start = time.monotonic()
    result = serving.generation(tiny, big, timeout=2, connections=1)
    assert time.monotonic() - start < 5
    assert_sentence(result, "timeout of 2 s", "kept")
    serving.assert_serves(tiny, generation=1)
    hub.faults.clear()
    serving.ok(serving.generation(tiny, big))


def test_hub_that_is_not_there(serving: Host, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    result = serving.generation(tiny, big, endpoint=f"http://127.0.0.1:{dead_port()}", **IMPATIENT)
    assert_sentence(result, "big", "no answer from 127.0.0.1")
    serving.assert_serves(tiny, generation=1)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://127.0.0.1", "http://", "http://[::1", "http://a:b", ""])
def test_endpoint_that_is_none(serving: Host, tiny: dict[str, Any], big: dict[str, Any], endpoint: str) -> None:
    assert_sentence(serving.generation(tiny, big, endpoint=endpoint, **IMPATIENT), "endpoint")
    serving.assert_serves(tiny, generation=1)


def test_content_that_is_no_model(serving: Host, hub: Hub, tmp_path: Any, tiny: dict[str, Any]) -> None:
    """The lock names these very bytes, but they are an error page and a file cut short."""
    source = tmp_path / "broken"
    source.mkdir()
    (source / "model.safetensors").write_text("<!DOCTYPE html>", encoding="utf-8")
    hub.add_repo("acme/broken", source)
    result = serving.generation(tiny, locked(hub, "broken", "acme/broken", source))
    assert_sentence(result, "model.safetensors", "broken", "not a valid safetensors file")
    serving.assert_serves(tiny, generation=1)
    assert serving.generations() == ["1"]


def test_connections_are_kept_and_the_hub_is_asked_once(
    serving: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]
) -> None:
    serving.ok(serving.generation(tiny, big, connections=2))
    assert hub.stats.requests("hub", path="*/weights.safetensors") == 1
    assert hub.stats.max_connections["cdn"] <= 2
    assert hub.stats.connections["cdn"] <= 2
    assert hub.stats.repeated_bytes() == 0
    assert hub.stats.bytes_sent("cdn") < 3 * BLOCK
