# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What people see of progress, and that a host cannot write anything else to their terminal."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.plugin_utils._progress_text import (
    Row,
    duration,
    fit,
    line,
    printable,
    row_of,
    table,
)

RECEIVING = {
    "operation": "stage",
    "doing": "receive",
    "what": "w.safetensors of big",
    "total_bytes": 1000,
    "done_bytes": 250,
    "bytes_per_second": 10,
}


def test_row() -> None:
    assert row_of(RECEIVING) == Row("receiving w.safetensors of big", 0.25, 10.0, 75.0)
    assert row_of({**RECEIVING, "doing": "wait"}) == Row(
        "waits for another run: w.safetensors of big", 0.25, 10.0, 75.0
    )
    assert row_of({"operation": "repair", "doing": "wait", "what": ""}) == Row("waits for another run")
    assert row_of({**RECEIVING, "operation": "verify", "doing": "hash"}).doing == "verifying w.safetensors of big"
    # Before it has begun.
    assert row_of({"operation": "stage", "doing": "", "what": ""}) == Row("stage")
    # Nothing to do, and nothing comes.
    assert row_of({**RECEIVING, "total_bytes": 0, "done_bytes": 0}).fraction == 1.0
    assert row_of({**RECEIVING, "bytes_per_second": 0}).left is None


@pytest.mark.parametrize("value", [None, "7", -1, float("nan"), float("inf"), 1 << 80, True, [], {}])
@pytest.mark.parametrize("name", ["total_bytes", "done_bytes", "bytes_per_second"])
def test_figures_that_are_none(name: str, value: Any) -> None:
    assert line("h", row_of({**RECEIVING, name: value})).startswith("h: receiving w.safetensors of big")


def test_host_that_writes_to_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\u202eabc\x9b31m"
    for name in ("operation", "doing", "what"):
        row = row_of({**RECEIVING, name: evil})
        for text in (line(evil, row), *table({evil: row}, 60, 10)):
            assert text.isprintable()
    assert len(printable("x" * 100_000)) == 200


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (0.2, "0:01"), (59.5, "1:00"), (3599, "59:59"), (86_400, "24:00:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_line() -> None:
    assert line("gpu-1", row_of(RECEIVING)) == "gpu-1: receiving w.safetensors of big, 25 %, 0.0 MB/s, 1:15 left"
    assert line("gpu-1", Row("stage")) == "gpu-1: stage"
    # 100 % is said when it is all.
    assert ", 99 %," in line("h", Row("x", 0.9999, 1e9, 1.0))


def test_table() -> None:
    rows = {
        "gpu-2": row_of({**RECEIVING, "bytes_per_second": 123_456_789}),
        "gpu-1": Row("verifying a of b", 1.0, 5e6, 0),
    }
    assert table(rows, 70, 10) == [
        "host   doing                                      %     MB/s      left",
        "gpu-1  verifying a of b                         100      5.0      0:00",
        "gpu-2  receiving w.safetensors of big            25    123.5      0:01",
    ]


def test_table_of_many_hosts() -> None:
    lines = table({f"gpu-{number:03}": Row("stage") for number in range(100)}, 60, 10)
    assert len(lines) == 10
    assert lines[-1] == "and 92 more"


@pytest.mark.parametrize("width", [10, 20, 30, 40, 50, 79, 200])
@pytest.mark.parametrize("name", ["a" * 100, "模型" * 20, "x"])
def test_table_is_never_too_wide(width: int, name: str) -> None:
    for text in table({name: row_of({**RECEIVING, "what": name}), "y": Row("stage")}, width, 10):
        assert sum(2 if ord(character) > 0x2000 else 1 for character in text) <= width


def test_fit() -> None:
    assert fit("abc", 5) == "abc  "
    assert fit("abcdef", 5) == "abcd~"
    assert fit("模型模型", 5) == "模型~"
    assert fit("模型模型", 6) == "模型~ "
