# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was measured, as a table for the terminal and for Markdown alike, with a description of the machine."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from .process import BenchError, Usage, typical

_PROBE = 1024 * 1024 * 1024  # bytes written to measure a disk


@dataclass(frozen=True)
class Row:
    """What each run of one peer cost in one scenario. ``times``: how often its median fits into that of hf."""

    scenario: str
    peer: str
    usages: Sequence[Usage]
    times: float | None
    remark: str


@dataclass(frozen=True)
class Target:
    """What was to be reached, and what was."""

    name: str
    wanted: str
    measured: str
    met: bool


@dataclass
class Report:
    """Collects rows, shows each as it comes, and puts all of them into a document."""

    machine: list[tuple[str, str]]
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Take a row."""
        self.rows.append(row)
        print(f"{row.scenario}: {row.peer}: {typical(row.usages).seconds:.2f} s", flush=True)

    def markdown(self) -> str:
        """Return everything as Markdown tables that can be read as they are."""
        results = [("Scenario", "Peer", "Seconds", "From, to", "Times hf", "CPU seconds", "Peak MiB", "Remark")]
        previous = ""
        for row in self.rows:
            usage = typical(row.usages)
            seconds = [usage.seconds for usage in row.usages]
            results.append(
                (
                    row.scenario if row.scenario != previous else "",
                    row.peer,
                    f"{usage.seconds:.2f}",
                    f"{min(seconds):.2f}, {max(seconds):.2f}",
                    "" if row.times is None else f"{row.times:.2f}",
                    f"{usage.cpu_seconds:.1f}",
                    f"{usage.peak_bytes / 2**20:.0f}",
                    row.remark,
                )
            )
            previous = row.scenario
        targets = [("Target", "Wanted", "Measured", "Met")]
        targets += [
            (target.name, target.wanted, target.measured, "yes" if target.met else "no") for target in self.targets
        ]
        return "\n\n".join([_table([("Machine", ""), *self.machine]), _table(results), _table(targets)])

    def write_into(self, document: Path, name: str = "figures") -> None:
        """Replace what is between the two marks with that name of a document."""
        before, after = around_figures(document, name)
        document.write_text(f"{before}\n\n{self.markdown()}\n\n{after}", encoding="utf-8")


def around_figures(document: Path, name: str = "figures") -> tuple[str, str]:
    """Return what a document has up to the mark where its figures begin, and from the mark where they end.

    :raises BenchError: When it has no such marks.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = document.read_text(encoding="utf-8").partition(first)
    _old, end, after = rest.partition(last)
    if not begin or not end:
        raise BenchError(f"{document} has no place for figures: {first} and {last} are missing")
    return before + begin, end + after


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def describe_machine(directory: Path, memory: Path | None, runs: int) -> list[tuple[str, str]]:
    """Return what the figures depend on. Writes to the directory to measure its disk."""
    disks = [("Disk", f"{_filesystem(directory)}, {_write_speed(directory) / 1e6:.0f} MB/s written and flushed")]
    if memory is not None:
        disks.append(("In memory", _filesystem(memory)))
    compared = f"huggingface_hub {version('huggingface_hub')}, {_first_line('aria2c')}, {_first_line('sha256sum')}"
    return [
        *_describe_hardware(),
        *disks,
        ("Python", f"{platform.python_version()}, {ssl.OPENSSL_VERSION}"),
        ("Compared", f"ansible-core {version('ansible-core')}, {compared}"),
        ("Runs", f"{runs} of each, in turn; medians, of memory the largest"),
    ]


def describe_fleet_machine(runs: int) -> list[tuple[str, str]]:
    """Return what the figures of many hosts on this machine depend on."""
    return [
        *_describe_hardware(),
        ("Python", f"{platform.python_version()}, ansible-core {version('ansible-core')}, {_first_line('podman')}"),
        ("Runs", f"{runs} of each, one of the playbook that it is compared with; medians, of memory the largest"),
    ]


def _describe_hardware() -> list[tuple[str, str]]:
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.*)$", cpu, re.MULTILINE)
    sha = "with" if re.search(r"\bsha_ni\b|\bsha2\b", cpu) else "without"
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return [
        ("Processor", f"{model[1] if model else platform.machine()}, {sha} SHA instructions"),
        ("Cores", f"{len(os.sched_getaffinity(0))} used of {os.cpu_count()}, load before {os.getloadavg()[0]:.1f}"),
        ("Memory", f"{memory_gib:.0f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
    ]


def _filesystem(directory: Path) -> str:
    command = ["df", "--output=fstype", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def _first_line(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _write_speed(directory: Path) -> float:
    """Return how many bytes a second reach the disk."""
    path = directory / "probe"
    chunk = os.urandom(1024 * 1024)
    started = time.monotonic()
    with path.open("wb", buffering=0) as stream:
        for _chunk in range(_PROBE // len(chunk)):
            stream.write(chunk)
        os.fsync(stream.fileno())
    seconds = time.monotonic() - started
    path.unlink()
    return _PROBE / seconds
