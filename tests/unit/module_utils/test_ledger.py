# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger: whatever happened to it, it tells what its whole lines say, in their order."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._directory import Directory
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger

A, B = "a" * 64, "b" * 64
VERIFIED: list[dict[str, Any]] = [{"event": "verified", "sha256": A, "bytes": 5}, {"event": "staged", "generation": 1}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the ledger lies."""
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with Directory.open_root(str(tmp_path)) as root:
        yield Ledger(root)


def without_time(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return events without their times."""
    return [{key: value for key, value in event.items() if key != "at"} for event in events]


def test_events_are_told_in_their_order(ledger: Ledger) -> None:
    assert ledger.events() == []
    ledger.append(VERIFIED)
    ledger.append([])
    ledger.append(iter(VERIFIED))
    assert without_time(ledger.events()) == VERIFIED * 2


def test_time_is_utc(ledger: Ledger) -> None:
    ledger.append(VERIFIED)
    moment = datetime.datetime.fromisoformat(ledger.events()[0]["at"])
    assert moment.utcoffset() == datetime.timedelta()
    assert abs(datetime.datetime.now(datetime.timezone.utc) - moment) < datetime.timedelta(seconds=10)


def test_nothing_is_written_for_no_event(ledger: Ledger, file: Path) -> None:
    ledger.append([])
    assert not file.exists()


def test_torn_at_every_byte(ledger: Ledger, file: Path) -> None:
    """A torn line is lost, and it costs no other one, neither before nor after it."""
    ledger.append(VERIFIED)
    whole = file.read_bytes()
    first, second = ledger.events()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        ledger.append([{"event": "later"}])
        *earlier, later = ledger.events()
        assert later["event"] == "later"
        assert earlier in ([], [first], [first, second])
        assert len(earlier) >= whole[:length].count(b"\n")


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"5",
    b'"verified"',
    b"{",
    b'{"event"}',
    b"{'event': 'verified'}",
    b"\xff\xfe",
    b"\x00" * 100,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5_000,
    b'{"event": "verified"}',
    b'{"event": "verified", "sha256": null}',
    b'{"event": "verified", "sha256": ["a"]}',
    b'{"event": ["verified"], "sha256": "a"}',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda line: ascii(line[:30]))
def test_garbage_between_lines_does_not_matter(ledger: Ledger, file: Path, garbage: bytes) -> None:
    ledger.append([{"event": "verified", "sha256": A}])
    with file.open("ab") as stream:
        stream.write(garbage + b"\n")
    ledger.append([{"event": "verified", "sha256": B}])
    assert set(ledger.last_verified()) == {A, B}
    assert ledger.last_verified()[A][0] < ledger.last_verified()[B][0]


@given(st.binary() | st.lists(st.sampled_from([*GARBAGE, *(json.dumps(event).encode() for event in VERIFIED)])))
def test_any_ledger_can_be_read(ledger: Ledger, file: Path, content: Any) -> None:
    file.write_bytes(content if isinstance(content, bytes) else b"\n".join(content))
    for place, at in ledger.last_verified().values():
        assert isinstance(at, str)
        assert 0 <= place < len(ledger.events())


def test_order_of_lines_counts_when_the_clock_is_set_back(ledger: Ledger, file: Path) -> None:
    lines = [
        {"at": "2030-01-01T00:00:00+00:00", "event": "verified", "sha256": A},
        {"at": "2026-06-01T00:00:00+00:00", "event": "verified", "sha256": B},
        {"at": "2026-05-01T00:00:00+00:00", "event": "corrupt", "sha256": A},
        {"at": "2026-01-01T00:00:00+00:00", "event": "verified", "sha256": A},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    last = ledger.last_verified()
    assert last == {A: (3, "2026-01-01T00:00:00+00:00"), B: (1, "2026-06-01T00:00:00+00:00")}
    assert min(last, key=lambda sha256: last[sha256]) == B


def test_any_text_is_kept_on_one_line(ledger: Ledger, file: Path) -> None:
    text = "a\nb\u2028c\x85d\x0b\ud800größe"
    ledger.append([{"event": "repaired", "reason": text}])
    assert ledger.events()[0]["reason"] == text
    assert file.read_bytes().count(b"\n") == 1
