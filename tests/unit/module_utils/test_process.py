# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs are run to their end, and stopped with all that they started."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled
from ansible_collections.gpufleet.models.plugins.module_utils._process import Ended, Limit, run_program


def run(
    script: str, seconds: float = 20, cancelled: threading.Event | None = None, content: str | None = None
) -> Ended:
    limit = Limit.of(seconds, cancelled or threading.Event())
    return run_program([sys.executable, "-c", script], os.environ, "/", limit, content)


def test_ended() -> None:
    assert run("import sys; print('out'); sys.stderr.write('oh'); sys.exit(3)") == Ended(3, "out\n", "oh")
    assert run("import os; os.kill(os.getpid(), 9)").status == -9


def test_input() -> None:
    text = "größe\n" * 200_000  # more than a pipe holds
    late = "import sys, time; time.sleep(0.3); print(len(sys.stdin.read()))"
    assert run(late, content=text).output == f"{len(text)}\n"
    assert run("pass", content=text).status == 0
    assert run("import sys; print(sys.stdin.read())").output == "\n"


@pytest.mark.parametrize("reason", ["time", "signal"])
def test_stopped_with_all_that_it_started(tmp_path: Path, reason: str) -> None:
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    cancelled = threading.Event()
    if reason == "signal":
        threading.Timer(1, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled, match="timeout of 1 s" if reason == "time" else "signal"):
        run(script, 1 if reason == "time" else 60, cancelled)
    assert time.monotonic() - start < 5
    for _attempt in range(100):
        state = Path(f"/proc/{pids.read_text()}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("what it started is still running")
