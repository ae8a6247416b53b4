# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fleets of any size: what the modules would return on each host, and the reports of them."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from ansible_collections.gpufleet.models.plugins.plugin_utils._report import Run, make_report
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_failures import failed_task, unreachable_task
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_host import Host

STARTED, FINISHED = "2026-03-04T05:06:07+00:00", "2026-03-04T05:09:27+00:00"
MODELS = ("all-MiniLM-L6-v2", "bge-base-en-v1.5", "e5-small", "law-chat", "phi-3-mini", "pixtral-12b")


def commit_of(model: str) -> str:
    """Return a commit for a model."""
    return hashlib.sha1(model.encode()).hexdigest()


def smoke_entry(model: str, latency: float = 12.0, load: float = 3.0, ok: bool = True) -> dict[str, Any]:
    """Return what ``model_smoke`` says of a model; one that is not ok has another output than its golden file."""
    golden = {"check": "golden", "ok": ok, "expected": "a cosine of at least 0.99999"}
    return {
        "name": model,
        "ok": ok,
        "skipped": None,
        "commit": commit_of(model),
        "task": "embedding",
        "engine": "transformers",
        "device": "NVIDIA L4",
        "dtype": "float16",
        "attempts": [
            {"dtype": "float16", "predicted_mib": 90, "available_mib": 22000, "reason": None, "failure": None}
        ],
        "checks": [
            {
                "check": "weights",
                "ok": True,
                "expected": "every weight of the model in its files",
                "found": "all of them",
            },
            {"check": "finite", "ok": True, "expected": "finite numbers alone", "found": "3 outputs"},
            {**golden, "found": "0.999998" if ok else "0.867000"},
        ],
        "load_seconds": {"cold": load, "warm": load / 4},
        "latency_ms": {"median": latency, "p95": latency * 1.2},
        "tokens_per_second": None,
        "gpu_memory_mib": 512,
        "gpu_utilization_percent": 80,
        "host_memory_mib": 900,
        "golden": None,
    }


def store_info(
    generation: int | None,
    models: tuple[str, ...] | list[str],
    smoke: list[dict[str, Any]] | None = None,
    last_verified: str | None = "2026-03-02T05:06:07+00:00",
) -> dict[str, Any]:
    """Return what ``model_store_info`` says of a store that serves one generation, or none."""
    outcome = {"at": "2026-03-01T05:06:07+00:00", "passed": True, "digest": "1" * 64, "models": smoke}
    found = {
        "generation": generation,
        "current": True,
        "served": True,
        "lock_digest": "0" * 64,
        "models": [
            {
                "name": model,
                "repo_id": f"acme/{model}",
                "commit": commit_of(model),
                "path": f"/opt/models/generations/{generation}/{model}",
                "files": 3,
                "bytes": 90000000,
                "derived": [],
                "derived_bytes": 0,
                "last_verified": last_verified,
            }
            for model in models
        ],
        "smoke": outcome if smoke else None,
    }
    known = [] if generation is None else [found]
    return {"exists": True, "current": generation, "generations": known, "partials": [], "blobs": 3, "changed": False}


def smoke_result(generation: int, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what ``model_smoke`` says after it tested a generation."""
    failures = [f"{entry['name']}: golden: …" for entry in entries if not entry["ok"]]
    msg = f"generation {generation} does not compute as it must: {'; '.join(failures)}"
    return {
        "changed": False,
        "generation": generation,
        "tested": True,
        "failures": failures,
        "models": entries,
        "msg": msg if failures else f"generation {generation} computes as it must",
    }


def make_run(check_mode: bool = False) -> Run:
    """Return a run that came to its end, without hosts."""
    return Run("site.yml", STARTED, check_mode, finished=FINISHED)


def fleet(hosts: int, models: int = 6, failing: bool = True, seed: int = 1) -> dict[str, Any]:
    """Return the report of a fleet.

    :param failing: With a host that computes something else, one that is unreachable, one that is slow, and one where a
        file is damaged, as far as there are so many hosts.
    """
    chance = random.Random(seed)
    run, names = make_run(), MODELS[:models]
    for place in range(hosts):
        name = f"gpu-{place + 1:0{len(str(hosts))}}"
        host = run.hosts.setdefault(name, Host())
        if failing and place == 2:
            run.unreachable |= {name}
            run.tasks[name] = [
                unreachable_task("Look", {"msg": "Failed to connect to the host via ssh", "unreachable": True})
            ]
            continue
        slow = 2.6 if failing and place == 3 else 1.0
        entries = [
            smoke_entry(
                model,
                latency=slow * (8 + 7 * column) * chance.uniform(0.95, 1.06),
                load=slow * (1.2 + 2.5 * column) * chance.uniform(0.9, 1.1),
                ok=not (failing and place == 1 and column == 0),
            )
            for column, model in enumerate(names)
        ]
        info = store_info(7, names, entries, f"2026-03-0{chance.randint(1, 3)}T05:06:07+00:00")
        host.observe("model_store_info", info, STARTED, False)
        if failing and place == 1:
            result = smoke_result(7, entries)
            run.failed |= {name}
            run.tasks[name] = [failed_task("model_smoke", "Run the models", [result], [], None)]
        if failing and place == 4:
            defect = {"model": names[-1], "path": "model.safetensors", "sha256": "2" * 64, "derived": False}
            corrupt = [{**defect, "reason": "1 of its 3 blocks is not as it must be", "blocks": [1]}]
            result = {
                "generation": 7,
                "models": info["generations"][0]["models"],
                "corrupt": corrupt,
                "msg": "1 of 3 files",
            }
            host.observe("model_verify", result, FINISHED, False)
            run.failed |= {name}
            run.tasks[name] = [failed_task("model_verify", "Verify what is served", [result], [], None)]
    return make_report(run, None)
