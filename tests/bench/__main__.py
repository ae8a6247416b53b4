# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure everything, print one table, and put it into ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .process import ROOT, BenchError, on_cores, run_benchmark
from .report import Report, around_figures, describe_machine
from .scenarios import Bench, downloads, memory, python_environment, second_site_run, smoke_test, verification
from .workloads import Sizes, make_workloads

DOCUMENT = ROOT / "docs" / "benchmarks.md"
SCENARIOS = {
    "downloads": downloads,
    "verification": verification,
    "second-site-run": second_site_run,
    "memory": memory,
    "python-environment": python_environment,
    "smoke-test": smoke_test,
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each peer in each scenario")
    parser.add_argument("--directory", type=Path, default=ROOT / ".cache" / "bench", help="where to work, on a disk")
    parser.add_argument("--memory-directory", type=Path, default=Path("/dev/shm"), help="where to work in memory")
    parser.add_argument("--quick", action="store_true", help="small files: tries the benchmark out, measures nothing")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="a scenario; then no document is written")
    arguments = parser.parse_args()
    run_benchmark(lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> None:
    """Measure what the arguments ask for, and leave nothing behind."""
    around_figures(DOCUMENT)
    sizes = Sizes(24, 64, 128) if arguments.quick else Sizes()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(arguments.directory).free
    if free < sizes.needed_bytes:
        raise BenchError(
            f"{arguments.directory} has {free / 2**30:.1f} GiB free, {sizes.needed_bytes / 2**30:.1f} GiB are needed; "
            "name another one with --directory"
        )
    with (
        # Server, network and hashing share them.
        on_cores(2),
        tempfile.TemporaryDirectory(dir=arguments.directory) as directory,
        tempfile.TemporaryDirectory(dir=arguments.memory_directory) as in_memory,
    ):
        big_enough = shutil.disk_usage(in_memory).free > sizes.needed_bytes
        tmpfs = Path(in_memory) if big_enough else None
        report = Report(describe_machine(Path(directory), tmpfs, arguments.runs))
        if os.getloadavg()[0] > 0.5:
            print("The machine is busy: these figures are not worth publishing.", file=sys.stderr)
        bench = Bench(make_workloads(Path(directory), sizes), Path(directory), tmpfs, arguments.runs, report)
        for name in arguments.only or SCENARIOS:
            SCENARIOS[name](bench)
    print(f"\n{report.markdown()}")
    if not arguments.quick and not arguments.only:
        report.write_into(DOCUMENT)


if __name__ == "__main__":
    main()
