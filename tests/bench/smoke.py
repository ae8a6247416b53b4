# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Smoke tests: the module against the shortest script that loads the same models and runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.demo import minilm_files
from tests.hub import Hub

from .process import ROOT, BenchError, Command, Usage, environment, run, typical
from .report import Report, Row, Target

INFERENCE = ROOT / ".cache" / "inference" / "bin" / "python"
MODULE = "ansible_collections.gpufleet.models.plugins.modules"
OURS, PLAIN, EACH = "model_smoke", "plain script, one process", "plain script, a process for each model"

# The embedded models: the real all-MiniLM-L6-v2, and tiny ones of the other architectures. Imports count, not weights.
TASKS = {"minilm": "embedding", "phi3": "generation", "bert": "embedding", "xlm_roberta": "rerank"}


def measure_smoke(directory: Path, runs: int, report: Report) -> None:
    """Load and run four models."""
    place = directory / "smoke"
    place.mkdir()
    environ = {**environment(place / "home", ""), "PYTHONPATH": str(ROOT / ".collections")}
    sources = place / "sources"
    made = [name for name in TASKS if name != "minilm"]
    subprocess.run([INFERENCE, "-m", "tests.smoke.factory", sources, *made], cwd=ROOT, check=True, capture_output=True)
    (sources / "minilm").symlink_to(minilm_files())
    store = _stage(place, sources, environ)
    plain = [f"{task}={store / 'generations/1' / name}" for name, task in TASKS.items()]
    command = [str(INFERENCE), "-m", "tests.smoke.plain"]
    peers: dict[str, list[Command]] = {
        OURS: [_module(place, "model_smoke", {"root": str(store), "generation": 1, "venv": _venv(), "cpu": "allow"})],
        PLAIN: [[*command, *plain]],
        EACH: [[*command, argument] for argument in plain],
    }
    usages: dict[str, list[Usage]] = {peer: [] for peer in peers}
    for _round in range(runs + 1):
        for peer, commands in peers.items():
            total = Usage(0, 0, 0)
            for one in commands:
                usage, text = run(one, environ)
                if "error" in text and peer != OURS:
                    raise BenchError(f"{peer} failed:\n{text[:2000]}")
                total = total.then(usage)
            usages[peer].append(total)
    shutil.rmtree(place)

    name = f"Smoke test of {len(TASKS)} models on the CPU"
    usages = {peer: found[1:] for peer, found in usages.items()}  # the first one filled the page cache
    seconds = {peer: typical(found).seconds for peer, found in usages.items()}
    remarks = {
        OURS: "two runs, up to 20 more for the latency, and a second load of each model",
        PLAIN: "one run",
        EACH: "one run",
    }
    for peer, found in usages.items():
        report.add(Row(name, peer, found, None, remarks[peer]))
    share = seconds[OURS] / seconds[PLAIN]
    report.targets.append(Target(name, "at most 1.15 times the script", f"{share:.2f} times", share <= 1.15))
    times = seconds[EACH] / seconds[OURS]
    report.targets.append(Target(name, "at least 2 times as fast as a process each", f"{times:.2f} times", times >= 2))


def _stage(place: Path, sources: Path, environ: dict[str, str]) -> Path:
    """Lock and stage the models, and return the store."""
    lock, store = place / "models.lock.json", place / "store"
    with Hub() as hub:
        for name in TASKS:
            hub.add_repo(f"bench/{name}", (sources / name).resolve())
        catalog = [{"name": name, "repo_id": f"bench/{name}", "exclude": [".gitattributes", "*.md"]} for name in TASKS]
        run(_module(place, "model_lock", {"catalog": catalog, "dest": str(lock), "endpoint": hub.endpoint}), environ)
        models = json.loads(lock.read_text(encoding="utf-8"))["models"]
        arguments = {"root": str(store), "models": models, "endpoint": hub.endpoint, "state": "staged"}
        run(_module(place, "model_generation", arguments), environ)
    return store


def _module(place: Path, name: str, arguments: dict[str, object]) -> Command:
    path = place / f"{name}.json"
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
    return [sys.executable, "-m", f"{MODULE}.{name}", str(path)]


def _venv() -> str:
    return str(INFERENCE.parents[1])
