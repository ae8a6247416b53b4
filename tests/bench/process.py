# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a process as a user would, and say what it cost."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]

Command = Sequence[str]


class BenchError(Exception):
    """Nothing can be measured; the message says why."""


def run_benchmark(measure: Callable[[], None]) -> None:
    """Measure, and end with a sentence where that cannot be; what is made for it is removed in each case."""
    # The cleaning up is the same after SIGTERM as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_arguments: sys.exit("stopped"))
    try:
        measure()
    except BenchError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")


@dataclass(frozen=True)
class Usage:
    """What processes cost: seconds, seconds of CPU, and the resident set of the largest of them in bytes.

    CPU and memory count for a process and for all that it started and waited for. What a process held before it became
    the program is counted with it, so no peak is below that of the benchmark itself.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def then(self, other: Usage) -> Usage:
        """Return the cost of both, one after the other."""
        return Usage(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )

    def less(self, start: Usage) -> Usage:
        """Return the cost without that of starting."""
        return Usage(self.seconds - start.seconds, self.cpu_seconds - start.cpu_seconds, self.peak_bytes)


def typical(usages: Sequence[Usage]) -> Usage:
    """Return the medians of several runs, and the largest of their peaks."""
    return Usage(
        median(usage.seconds for usage in usages),
        median(usage.cpu_seconds for usage in usages),
        max(usage.peak_bytes for usage in usages),
    )


def environment(home: Path, endpoint: str) -> dict[str, str]:
    """Return the environment of every process that is measured: nothing of the user's, no proxy, no other network."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        # The local Hub speaks HTTP only, as every mirror does.
        "HF_HUB_DISABLE_XET": "1",
    }


def run(command: Command, environ: Mapping[str, str]) -> tuple[Usage, str]:
    """Run a command to its end; return what it cost and what it printed.

    :raises BenchError: When it fails.
    """
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _pid, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            stop(process)
            raise
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode:
        raise BenchError(f"{shlex.join(command)} ended with {process.returncode}:\n{text[-4000:]}")
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), text


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, and let it end what it started."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Let processes that are started meanwhile run on so many cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
