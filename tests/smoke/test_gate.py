# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate of site.yml: nothing is served that was not proven to compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.integration.fleet import Fleet
from tests.integration.harness import CHECKOUT
from tests.smoke import faults
from tests.smoke.conftest import MINILM

INFERENCE = CHECKOUT / ".cache" / "inference"


@pytest.fixture
def minilm(models: dict[str, Path]) -> Path:
    """The directory of the real model, as its repository has it."""
    return models[MINILM]


@pytest.fixture
def serving(hub: Hub, minilm: Path, tmp_path: Path) -> Fleet:
    """A fleet that serves the real model, proven on its CPU against a golden file."""
    hub.add_repo("acme/minilm", minilm)
    fleet = Fleet(hub, tmp_path)
    fleet.variables.update(
        model_catalog=[{"name": MINILM, "repo_id": "acme/minilm"}],
        model_store_smoke="required",
        model_store_allow_cpu=True,
        model_store_venv=str(INFERENCE),
    )
    fleet.ok("lock")
    assert fleet.ok("golden") == 3  # staged, a directory, a file
    assert not (fleet.root / "current").exists()
    golden = json.loads((fleet.inventory.parent / "golden" / f"{MINILM}.json").read_text(encoding="utf-8"))
    assert golden["outputs"][0][:2] == pytest.approx([-0.034477, 0.031023], abs=2e-6)
    fleet.ok("site")
    return fleet


def upgrade(fleet: Fleet, directory: Path) -> None:
    fleet.hub.repositories["acme/minilm"].add_commit(directory)
    assert fleet.ok("lock", "-e", "model_store_upgrade=true") == 1


def test_what_does_not_compute_is_not_served(serving: Fleet, minilm: Path, tmp_path: Path) -> None:
    assert serving.ok("site") == 0
    assert serving.ok("smoke") == 0
    planted = faults.copy(minilm, tmp_path / "planted")
    faults.nan_weights(planted)
    upgrade(serving, planted)
    (serving.inventory.parent / "golden" / f"{MINILM}.json").unlink()
    output = serving.fails("site")
    assert f"generation 2 does not compute as it must: {MINILM}: finite: expected finite numbers alone, found" in output
    assert "checked: generation 1 is whole and served as before" in output
    assert serving.current == "generations/1"
    assert sorted(path.name for path in (serving.root / "generations").iterdir()) == ["1"]
    assert serving.ok("smoke") == 0


def test_a_golden_file_is_of_one_commit(serving: Fleet, minilm: Path, tmp_path: Path) -> None:
    newer = faults.copy(minilm, tmp_path / "newer")
    (newer / "README.md").write_text("# Newer\n", encoding="utf-8")
    upgrade(serving, newer)
    assert f"{MINILM}: its golden file is of commit" in serving.fails("site")
    assert serving.current == "generations/1"
    assert serving.ok("golden") == 2
    assert serving.ok("site") == 1
    assert serving.current == "generations/2"


def test_a_host_without_a_gpu_is_told_apart(serving: Fleet) -> None:
    serving.variables["model_store_allow_cpu"] = False
    assert "expected a GPU that works, found none" in serving.fails("smoke")
    serving.variables["model_store_smoke"] = "if_gpu"
    process = serving.play("smoke", "-v")
    assert process.returncode == 0
    assert "nothing was tested: " in process.stdout
    serving.variables["model_store_smoke"] = False  # what YAML makes of a plain off
    assert serving.ok("site") == 0


def test_a_host_that_computes_something_else_is_named(serving: Fleet, tmp_path: Path) -> None:
    """Another host has the same model, by its lock, and another file behind it."""
    hosts = {name: {"model_store_root": str(tmp_path / name)} for name in ("gpu-0", "gpu-1", "gpu-2", "gpu-3")}
    # The first host has no part in it, and is no reason to compare nothing.
    hosts["gpu-0"] |= {"model_store_smoke": "off", "_model_store_smoke_due": False}
    serving.variables.pop("model_store_link")
    serving.hosts = hosts
    assert serving.ok("site") >= 1
    golden = serving.inventory.parent / "golden" / f"{MINILM}.json"
    golden.unlink()
    rotten = tmp_path / "rotten"
    faults.copy(tmp_path / "gpu-2" / "current" / MINILM, rotten)
    faults.zeroed_layer(rotten)
    weights = tmp_path / "gpu-2" / "current" / MINILM / "model.safetensors"
    weights.unlink()
    shutil.copy(rotten / "model.safetensors", weights)
    output = " ".join(serving.play("smoke").stdout.split())
    assert f"{MINILM}: expected a cosine of at least 0.99999 to the median of 3 hosts, found 0." in output
    assert "fatal: [gpu-2]" in output
    assert "fatal: [gpu-1]" not in output
