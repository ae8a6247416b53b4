# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Progress: a file that is there while the work goes on, and that can do no harm to it."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

from ansible_collections.gpufleet.models.plugins.module_utils._progress import ProgressFile
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._transfer import Progress


def test_it_says_how_far_the_work_is(store: Store) -> None:
    path = Path(store.path, "progress.json")
    with ProgressFile(store, "stage") as report:
        report(Progress(100, 10, 20))
        document = json.loads(path.read_text(encoding="utf-8"))
        assert document.pop("seconds") >= 0
        assert document == {
            "operation": "stage",
            "pid": os.getpid(),
            "total_bytes": 100,
            "kept_bytes": 10,
            "received_bytes": 20,
        }
    assert not path.exists()


def test_it_is_written_once_a_second(store: Store) -> None:
    with ProgressFile(store, "stage") as report:
        report(Progress(100, 0, 0))
        first = Path(store.path, "progress.json").stat().st_ino
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            report(Progress(100, 0, 50))
        assert Path(store.path, "progress.json").stat().st_ino == first


def test_full_disk_does_not_stop_the_work(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with ProgressFile(store, "stage") as report:
            report(Progress(100, 0, 0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not Path(store.path, "progress.json").exists()
