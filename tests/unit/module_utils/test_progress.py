# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Progress: what is counted, and how fast it grows."""

from __future__ import annotations

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._progress import Hashing, Progress, Rate


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        ([(0.0, 500)], 0.0),
        ([(0.0, 0), (2.0, 200)], 100.0),
        # What was there before counts for nothing.
        ([(0.0, 1000), (1.0, 1010)], 10.0),
        # Only the last seconds count: it was fast, and is slow now.
        (
            [(float(second), 1000 * second) for second in range(60)]
            + [(60.0 + second, 59_000) for second in range(20)],
            0,
        ),
        ([(0.0, 0), (100.0, 1000)], 10.0),
        # Two at the same moment.
        ([(1.0, 0), (1.0, 10)], 0.0),
    ],
)
def test_rate(samples: list[tuple[float, int]], rate: float) -> None:
    meter = Rate()
    assert [meter.add(*sample) for sample in samples][-1] == rate


def test_hashing_counts_all_files_together() -> None:
    seen: list[Progress] = []
    hashing = Hashing(seen.append, {"a": (10, "a of m"), "b": (5, "b of m")})
    hashing("a", 4)
    hashing("b", 5)
    hashing("a", 6)
    # A block that was found damaged is read again.
    hashing("a", 4)
    assert [(progress.total, progress.kept, progress.done, progress.what) for progress in seen] == [
        (15, 0, 4, "a of m"),
        (15, 0, 9, "b of m"),
        (15, 0, 15, "a of m"),
        (15, 0, 15, "a of m"),
    ]
