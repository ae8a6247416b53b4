# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus is told of a store, in its text format: it follows from the manifest, a quick look, and the ledger.

So it can be written again at any time, and says the same until one of them changes. What each metric means is in
docs/monitoring/README.md.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._blocks import block_count
from ._inspect import TIME, Inspection
from ._ledger import Ledger
from ._manifest import Manifest

RUN = "verification_run"  # the ledger's event at the end of each run of the service

# Name without prefix, type, what it means.
_METRICS = {
    "model_verified": (
        "gauge",
        "Whether every file of the served model is as the lock says, as far as it was looked at.",
    ),
    "model_last_verified_timestamp_seconds": (
        "gauge",
        "When the file of the model that was hashed longest ago was found whole; 0 while one never was.",
    ),
    "model_corrupt_blocks_total": ("counter", "Blocks of 16 MiB of the model that were found damaged."),
    "generation_info": ("gauge", "The generation that is served."),
    "verification_last_run_timestamp_seconds": ("gauge", "When the last run of the verification ended."),
    "verification_last_run_success": ("gauge", "Whether it came to its end and left nothing damaged."),
    "verification_last_run_duration_seconds": ("gauge", "How long it took."),
    "verification_last_run_hashed_bytes": ("gauge", "How much it read and hashed."),
}


@dataclass(frozen=True)
class Run:
    """A run of the service: when it ended (seconds since 1970), with what result, and what it took."""

    at: float
    success: bool
    seconds: float
    hashed_bytes: int

    def event(self) -> dict[str, Any]:
        """Return what the ledger keeps of it."""
        return {"event": RUN, "success": self.success, "seconds": self.seconds, "hashed_bytes": self.hashed_bytes}


@dataclass(frozen=True)
class Health:
    """What is known of a served model. ``last_verified`` is in seconds since 1970, 0 for never."""

    name: str
    commit: str
    verified: bool
    last_verified: float
    corrupt_blocks: int


def last_run(ledger: Ledger) -> Run | None:
    """Return the last run that the ledger knows of."""
    for event in reversed(ledger.events()):
        if event.get("event") == RUN:
            seconds, hashed_bytes = event.get("seconds"), event.get("hashed_bytes")
            if isinstance(seconds, (int, float)) and math.isfinite(seconds) and isinstance(hashed_bytes, int):
                return Run(_seconds_since_1970(event.get("at")), event.get("success") is True, seconds, hashed_bytes)
    return None


def health_of(manifest: Manifest, inspection: Inspection, ledger: Ledger) -> list[Health]:
    """Return what is known of each model of a generation.

    A changed time alone says nothing against a file: it is hashed when its turn comes.
    """
    last, doubtful = ledger.last_verified(), ledger.doubtful()
    corrupt = corrupt_blocks(ledger.events(), {file.sha256: file.size for _model, file in manifest.files()})
    wrong = {problem.model.name for problem in inspection.problems if problem.kind != TIME}
    found = []
    for model in manifest.models:
        blobs = {file.sha256 for file in (*model.files, *manifest.derived_files(model))}
        times = [_seconds_since_1970(last[sha256][1]) if sha256 in last else 0 for sha256 in blobs]
        found.append(
            Health(
                name=model.name,
                commit=model.commit,
                verified=model.name not in wrong and not blobs & doubtful and all(sha256 in last for sha256 in blobs),
                last_verified=min(times),
                corrupt_blocks=sum(corrupt.get(sha256, 0) for sha256 in blobs),
            )
        )
    return found


def corrupt_blocks(events: Iterable[Mapping[str, Any]], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return how many blocks of each blob were found damaged since the ledger began.

    A block that is found damaged again, as nobody mended it, counts once. Where the blocks cannot be told, all of them
    count.

    :param events: The ledger's, the oldest first.
    :param sizes: The blobs, with their sizes in bytes.
    """
    counts: dict[str, int] = {}
    known: dict[str, set[int]] = {}
    for event in events:
        sha256 = event.get("sha256")
        if not isinstance(sha256, str) or sha256 not in sizes:
            continue
        if event.get("event") == "verified":
            known.pop(sha256, None)
        elif event.get("event") == "corrupt":
            bad, before = _bad_blocks(event.get("blocks"), sizes[sha256]), known.get(sha256, set())
            counts[sha256] = counts.get(sha256, 0) + len(bad - before)
            known[sha256] = bad | before
    return counts


def _bad_blocks(blocks: object, size: int) -> set[int]:
    if not isinstance(blocks, list):  # it is lost, or nothing tells its blocks apart
        return set(range(block_count(size) or 1))
    # None of them is wrong when there are bytes behind the last one.
    return {block for block in blocks if isinstance(block, int)} or {0}


def render(manifest: Manifest | None, models: Iterable[Health], run: Run | None) -> str:
    """Return the metrics in Prometheus' text format.

    :param manifest: That of the generation that is served, or None when there is none.
    :param run: The last run of the service, or None before the first.
    """
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {name: [] for name in _METRICS}
    for model in models:
        labels = {"model": model.name, "commit": model.commit}
        samples["model_verified"].append((labels, model.verified))
        samples["model_last_verified_timestamp_seconds"].append((labels, model.last_verified))
        samples["model_corrupt_blocks_total"].append((labels, model.corrupt_blocks))
    if manifest is not None:
        labels = {"generation": str(manifest.generation), "lock_digest": manifest.digest}
        samples["generation_info"].append((labels, 1))
    if run is not None:
        samples["verification_last_run_timestamp_seconds"].append(({}, run.at))
        samples["verification_last_run_success"].append(({}, run.success))
        samples["verification_last_run_duration_seconds"].append(({}, run.seconds))
        samples["verification_last_run_hashed_bytes"].append(({}, run.hashed_bytes))
    return "".join(f"{line}\n" for name, found in samples.items() if found for line in _lines(name, found))


def _lines(name: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    kind, meaning = _METRICS[name]
    yield f"# HELP gpufleet_{name} {meaning}"
    yield f"# TYPE gpufleet_{name} {kind}"
    for labels, value in samples:
        pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        number = int(value) if value == int(value) else value
        yield f"gpufleet_{name}{{{pairs}}} {number}" if pairs else f"gpufleet_{name} {number}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds_since_1970(at: object) -> float:
    """Return the time of a line of the ledger; 0 when it has none that can be read."""
    try:
        return datetime.datetime.fromisoformat(str(at)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0
