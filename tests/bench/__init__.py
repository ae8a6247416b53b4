# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection measured against what people use today: ``python -m tests.bench``.

Whole processes do the same work in turn against the same local Hub; ``docs/benchmarks.md`` has what came of it.
"""

from __future__ import annotations
