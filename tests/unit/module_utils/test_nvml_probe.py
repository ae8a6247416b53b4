# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where there is no NVML, the probe says so. What NVML itself says is tested on the test hosts."""

from __future__ import annotations

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._nvml_probe import probe


@pytest.mark.parametrize(
    ("library", "reason"),
    [("libno-such-library.so.1", "libno-such-library.so.1 is not installed"), ("libc.so.6", "libc.so.6 is not NVML")],
)
def test_no_nvml(library: str, reason: str) -> None:
    answer = probe(library)
    assert answer.version is None
    assert (answer.reason or "").startswith(reason)
