# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Conversions through the playbooks: made between staging and the smoke test, served, damaged, given up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.integration.fleet import Fleet
from tests.integration.harness import CHECKOUT, flip
from tests.smoke import faults

ENTRY = {"name": "bert", "repo_id": "acme/bert"}
CONVERT = {"format": "openvino", "bits": 8}


@pytest.fixture
def serving(hub: Hub, models: dict[str, Path], tmp_path: Path) -> Fleet:
    """A fleet that serves a model and its conversion, both proven on its CPU."""
    hub.add_repo("acme/bert", models["bert"])
    fleet = Fleet(hub, tmp_path)
    fleet.variables.update(
        model_catalog=[{**ENTRY, "convert": CONVERT}],
        model_store_smoke="required",
        model_store_allow_cpu=True,
        model_store_venv=str(CHECKOUT / ".cache" / "inference"),
    )
    fleet.ok("lock")
    assert fleet.ok("site") == 4  # staged, converted, served, linked
    return fleet


def generations(fleet: Fleet) -> list[str]:
    return sorted(path.name for path in (fleet.root / "generations").iterdir())


def weights(fleet: Fleet) -> Path:
    return fleet.root / "current" / "bert" / "openvino" / "openvino_model.bin"


def manifest(fleet: Fleet) -> dict[str, object]:
    text = (fleet.root / "current" / ".generation.json").read_text(encoding="utf-8")
    document: dict[str, object] = json.loads(text)
    return document


def test_the_whole_path(serving: Fleet) -> None:
    assert (serving.current, generations(serving)) == ("generations/2", ["1", "2"])
    assert (serving.link / "bert" / "openvino" / "openvino_model.xml").is_file()
    smoke = manifest(serving)["smoke"]
    assert isinstance(smoke, dict)
    assert [(model["engine"], model["ok"]) for model in smoke["models"]] == [("transformers", True), ("openvino", True)]
    assert serving.ok("site") == 0
    assert serving.ok("site", "--check") == 0
    assert serving.ok("verify") == 0
    # A golden file is of the model itself, and what was converted is compared with it as well.
    assert serving.ok("golden") == 2
    golden = serving.inventory.parent / "golden" / "bert.json"
    assert json.loads(golden.read_text(encoding="utf-8"))["dtype"] == "float32"
    assert serving.ok("smoke") == 0
    serving.ok("prune", "-e", "model_store_keep=1")
    assert generations(serving) == ["2"]
    assert serving.ok("verify") == 0


def test_damage_is_mended_by_the_playbook(serving: Fleet) -> None:
    flip(weights(serving).resolve(), 4321)
    output = serving.fails("verify", "-e", "model_store_verify_repair=true")
    assert "openvino/openvino_model.bin of bert" in output
    assert "run the playbook site, which converts the model again" in output
    assert serving.ok("site") == 2  # converted, served
    assert serving.current == "generations/3"
    assert serving.ok("verify") == 0
    assert serving.ok("site") == 0


def test_what_cannot_be_converted_leaves_everything_as_it_was(serving: Fleet, tmp_path: Path) -> None:
    planted = faults.copy(serving.root / "current" / "bert", tmp_path / "planted")
    shutil.rmtree(planted / "openvino")
    faults.nan_weights(planted)
    serving.hub.repositories["acme/bert"].add_commit(planted)
    assert serving.ok("lock", "-e", "model_store_upgrade=true") == 1
    output = serving.fails("site")
    assert "bert: its own outputs are not finite numbers alone; do not convert it" in output
    assert "checked: generation 2 is whole and served as before" in output
    assert (serving.current, generations(serving)) == ("generations/2", ["1", "2"])
    assert serving.ok("verify") == 0


def test_a_conversion_is_given_up(serving: Fleet) -> None:
    serving.variables["model_catalog"] = [ENTRY]
    assert serving.ok("lock") == 1
    assert serving.ok("site") == 2  # a generation without it, served
    assert (serving.current, weights(serving).exists()) == ("generations/3", False)
    assert serving.ok("site") == 0
    # Rolling back brings it back, and the next run does what the lock says.
    assert serving.ok("rollback") == 1
    assert weights(serving).is_file()
    assert serving.ok("site") == 1
    assert serving.current == "generations/3"
