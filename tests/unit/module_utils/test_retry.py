# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting times: what a server asks for, within reason, or else a growing, jittered delay."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._retry import backoff_delay, server_delay


@pytest.mark.parametrize(
    ("retry_after", "rate_limit", "delay"),
    [
        ("", "", None),
        ("5", "", 5),
        (" 120 ", "", 120),
        ("0", "", 0),
        ("99999999", "", 3600),
        ("9" * 400, "", 3600),
        ("-1", "", None),
        ("1.5", "", None),
        ("soon", "", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "", 0),
        ("Wed, 21 Oct 2999 07:28:00 GMT", "", 3600),
        ("Wed, 32 Oct 2015 07:28:00 GMT", "", None),
        ("", '"api";r=0;t=55', 55),
        ("", '"api"; r=0; t=55', 55),
        ("", '"api";r=12;t=55', None),
        ("", '"api";r=00;t=7', 7),
        ("", '"api";r=0', None),
        ("", '"api";r=0;t=99999', 3600),
        ("10", '"api";r=0;t=55', 55),
        ("60", '"api";r=0;t=55', 60),
        ("10", '"api";r=12;t=55', 10),
        ("soon", '"api";r=0;t=55', 55),
    ],
)
def test_what_the_server_asks_for(retry_after: str, rate_limit: str, delay: float | None) -> None:
    assert server_delay(retry_after, rate_limit) == delay


def test_date_that_the_server_names() -> None:
    delay = server_delay(email.utils.formatdate(time.time() + 100, usegmt=True), "")
    assert delay is not None
    assert 95 < delay <= 100


_dates = st.from_regex(r"[A-Z][a-z]{2}, \d{1,2} Oct \d{1,5} \d\d:\d\d:\d\d( GMT| [+-]\d{1,9})?")


@given(st.text() | _dates, st.text() | st.from_regex(r"r=\d+.{0,3}t=\d+"))
@example("", f'"api";r={"0" * 5000};t=5')
@example("", f'"api";r=0;t={"5" * 5000}')
@example("9" * 5000, "")
@example(f"Mon, 01 Jan 2024 00:00:00 +{'9' * 22}", "")
@example("Fri, 31 Dec 9999 23:59:59 -9999", "")
@example(f"Mon, 01 Jan {'9' * 5000} 00:00:00", "")
def test_any_headers_are_understood_or_ignored(retry_after: str, rate_limit: str) -> None:
    delay = server_delay(retry_after, rate_limit)
    assert delay is None or 0 <= delay <= 3600


def test_no_header_keeps_the_cpu_busy() -> None:
    """http.client takes headers of up to 64 KiB."""
    start = time.process_time()
    server_delay("9" * 65_000, "r=1" * 20_000)
    assert time.process_time() - start < 0.5


def test_backoff_grows_to_its_limit_with_jitter() -> None:
    for failures, ceiling in [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (8, 30), (100, 30), (5000, 30)]:
        delays = [backoff_delay(failures) for _attempt in range(50)]
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(set(delays)) > 40
