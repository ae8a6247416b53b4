# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks, as a user runs them: by name, with an inventory, from any directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import nvml
from tests.hub import Hub
from tests.hub.faults import Flip
from tests.integration.fleet import Fleet, recap
from tests.integration.harness import CHECKOUT, environment, flip, sha256sums


@pytest.fixture
def fleet(hub: Hub, tmp_path: Path) -> Fleet:
    return Fleet(hub, tmp_path)


@pytest.fixture
def upgraded(fleet: Fleet, tiny_directory: Path) -> Fleet:
    """A fleet that serves both models, and a lock with a newer commit of one of them."""
    fleet.ok("lock")
    fleet.ok("site")
    # The same files in another directory of the same name: only what changed is new.
    newer = fleet.home / "newer"
    newer.mkdir()
    for path in tiny_directory.rglob("*"):
        if path.is_file():
            target = newer / path.relative_to(tiny_directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (newer / "config.json").write_text('{"model_type": "newer"}\n', encoding="utf-8")
    fleet.hub.repositories["acme/tiny"].add_commit(newer)
    assert fleet.ok("lock", "-e", '{"model_store_upgrade": ["tiny"]}') == 1
    fleet.hub.stats.reset()
    return fleet


def test_the_whole_path(fleet: Fleet, tiny_directory: Path, big_directory: Path) -> None:
    assert fleet.ok("lock", "--check") == 1
    assert not fleet.lock_file.exists()
    assert fleet.ok("lock") == 1
    assert fleet.ok("lock") == 0

    assert fleet.ok("site", "--check", "--diff") == 1
    assert not fleet.root.exists()
    assert fleet.ok("site") == 3
    served = sha256sums(fleet.link)
    served.pop(".generation.json")
    assert served == {
        f"{name}/{path}": digest
        for name, directory in (("tiny", tiny_directory), ("big", big_directory))
        for path, digest in sha256sums(directory).items()
    }

    fleet.hub.stats.reset()
    assert fleet.ok("site") == 0
    assert fleet.ok("site", "--check", "--diff") == 0
    assert fleet.ok("verify") == 0
    assert fleet.hub.stats.requests() == 0


def test_an_upgrade_and_the_way_back(upgraded: Fleet) -> None:
    before = sha256sums(upgraded.root / "current")
    assert upgraded.ok("site") == 2
    assert upgraded.current == "generations/2"
    # Once for its first byte before anything is changed, once for all of it.
    assert [exchange.path.rpartition("/")[2] for exchange in upgraded.hub.stats.exchanges()] == ["config.json"] * 2

    process = upgraded.play("rollback")
    assert process.returncode == 0
    assert "serves generation 1: big, tiny" in " ".join(process.stdout.split())
    assert upgraded.current == "generations/1"
    assert sha256sums(upgraded.root / "current") == before

    # The lock still names the newer commit: it is there already.
    assert upgraded.ok("site") == 1
    assert upgraded.ok("rollback", "-e", "model_store_generation=1") == 1
    assert upgraded.ok("site") == 1
    assert upgraded.ok("prune", "-e", "model_store_keep=1") == 1
    assert sorted(path.name for path in (upgraded.root / "generations").iterdir()) == ["2"]
    assert "nothing to go back to" in upgraded.fails("rollback")


def test_a_failure_leaves_what_was_served(upgraded: Fleet) -> None:
    before = sha256sums(upgraded.root / "current")
    with upgraded.hub.fault(Flip(3, path="*/config.json")):
        output = upgraded.fails("site")
    assert "config.json of tiny: expected SHA-256" in output
    assert "checked: generation 1 is whole and served as before" in output
    assert upgraded.current == "generations/1"
    assert sha256sums(upgraded.root / "current") == before
    assert sorted(path.name for path in (upgraded.root / "generations").iterdir()) == ["1"]

    assert upgraded.ok("site") == 2
    assert upgraded.current == "generations/2"


def test_a_failure_after_the_switch_goes_back(upgraded: Fleet) -> None:
    # The link cannot be made: something else is in its place.
    upgraded.link.unlink()
    upgraded.link.mkdir()
    output = upgraded.fails("site")
    assert "checked: generation 1 is whole and served as before" in output
    assert upgraded.current == "generations/1"
    assert sorted(path.name for path in (upgraded.root / "generations").iterdir()) == ["1"]


@pytest.mark.parametrize("keep", [True, False])
def test_what_was_received_is_kept_unless_told_otherwise(fleet: Fleet, keep: bool) -> None:
    fleet.ok("lock")
    fleet.variables["model_store_keep_partials"] = keep
    with fleet.hub.fault(Flip(3, path="*/weights.safetensors", times=None)):
        output = fleet.fails("site")
    assert "weights.safetensors of big" in output
    assert "nothing is served, as before" in output
    assert not (fleet.root / "current").exists()
    left = [path for name in ("blobs", "partial") for path in (fleet.root / name).rglob("*") if path.is_file()]
    assert bool(left) == keep
    assert fleet.ok("site") == 3


def test_what_another_run_serves_meanwhile_stays(upgraded: Fleet) -> None:
    other = json.loads(upgraded.lock_file.read_text(encoding="utf-8"))["models"][:1]
    arguments = json.dumps({"root": str(upgraded.root), "models": other, "endpoint": upgraded.hub.endpoint})
    command = ["ansible", "localhost", "-m", "gpufleet.models.model_generation", "-a", arguments]
    variables = {
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    with upgraded.hub.fault(Flip(3, path="*/config.json")) as fault:
        with subprocess.Popen(
            command, env=environment(upgraded.home, **variables), stdout=subprocess.PIPE, text=True
        ) as process:
            upgraded.fails("site")
        assert process.returncode == 0
        assert fault.applied
    assert upgraded.current == "generations/2"


def test_a_first_deployment_that_fails_after_the_switch_says_why(fleet: Fleet) -> None:
    fleet.ok("lock")
    fleet.link.mkdir()
    output = fleet.fails("site")
    assert "checked: generation 1 is whole and served" in output
    assert "refusing to convert" in output or "directory" in output
    assert fleet.current == "generations/1"
    fleet.link.rmdir()
    assert fleet.ok("site") == 1


def test_verification_finds_and_repairs(fleet: Fleet) -> None:
    fleet.ok("lock")
    fleet.ok("site")
    before = sha256sums(fleet.root / "current")
    flip(fleet.root / "current" / "big" / "weights.safetensors", 17 * 2**20)
    assert "weights.safetensors of big: 1 of its 3 blocks" in fleet.fails("verify")
    assert fleet.ok("verify", "-e", "model_store_verify_repair=true") == 1
    assert fleet.ok("verify") == 0
    assert sha256sums(fleet.root / "current") == before


def test_what_is_missing_is_told_before_anything_is_changed(fleet: Fleet) -> None:
    fleet.variables["model_catalog"][0]["requires"] = {"gpu_memory_mib": 24576}
    fleet.variables["model_store_venv"] = str(fleet.home / "env")
    fleet.ok("lock")
    message = fleet.fails("site")
    assert f"tiny: a GPU is required, and nvidia-ml-py 13 or later is not in {fleet.home}/env" in message
    assert "nothing was changed" in message
    assert not fleet.root.exists()
    # The environment may be made by the same run.
    assert fleet.ok("site", "--check") == 1


def test_a_missing_lock_and_unknown_models_are_named(fleet: Fleet) -> None:
    assert "make it with the playbook gpufleet.models.lock" in fleet.fails("site")
    fleet.ok("lock")
    fleet.variables["model_store_models"] = ["tiny", "huge"]
    assert "huge of model_store_models not found; it has big, tiny" in fleet.fails("site")
    assert not fleet.root.exists()


def locked_names(path: Path) -> list[str]:
    """Return the names of the models that a lock has."""
    return [model["name"] for model in json.loads(path.read_text(encoding="utf-8"))["models"]]


def test_a_lock_has_what_all_hosts_want_that_use_it(fleet: Fleet, hub: Hub, tiny_directory: Path) -> None:
    """Also those that have no part in a run, and with the commits that it had; other locks are left alone."""
    tiny, big = fleet.variables.pop("model_catalog")
    other = fleet.inventory.parent / "other.lock.json"
    fleet.hosts = {
        "gpu-1": {"model_catalog": [tiny]},
        "gpu-2": {"model_catalog": [big]},
        "gpu-3": {"model_catalog": [{**tiny, "name": "third"}], "model_store_lock": str(other)},
        "cpu-1": {},
    }
    fleet.ok("lock")
    before = fleet.lock_file.read_bytes()
    assert locked_names(fleet.lock_file) == ["big", "tiny"]
    assert locked_names(other) == ["third"]

    hub.repositories["acme/big"].add_commit(tiny_directory)
    assert fleet.ok("lock", "--limit", "gpu-1") == 0
    assert fleet.ok("lock", "-e", "model_hosts=gpu-1:cpu-1") == 0
    assert fleet.lock_file.read_bytes() == before
    other.unlink()
    assert fleet.ok("lock", "--limit", "gpu-3") == 1
    assert locked_names(other) == ["third"]
    assert fleet.lock_file.read_bytes() == before


def test_a_host_has_the_models_that_its_variables_name(fleet: Fleet) -> None:
    fleet.ok("lock")
    fleet.variables["model_store_models"] = ["tiny"]
    assert fleet.ok("site") == 3
    manifest = json.loads((fleet.root / "current" / ".generation.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in manifest["models"]] == ["tiny"]


def plug(hardware: Path) -> None:
    """Plug a GPU of the generation Hopper into a host."""
    device = hardware / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    for name, value in (("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")):
        (device / name).write_text(f"{value}\n", encoding="utf-8")


def test_a_driver_that_works_stays(fleet: Fleet, tmp_path: Path) -> None:
    """The role runs by default; whoever brought the driver, there is nothing to do, and nothing to fetch."""
    plug(tmp_path / "hardware")
    driver = {
        "LD_LIBRARY_PATH": str(nvml.build(tmp_path / "nvml")),
        **nvml.write(nvml.host(nvml.H100), tmp_path / "description"),
    }
    fleet.variables |= {"cuda_driver_repository": "http://127.0.0.1:1", "cuda_driver_version": "580"}
    fleet.ok("lock")
    process = fleet.play("site", "-v", **driver)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "driver 580.95.05 works and is left as it is" in process.stdout
    assert recap(process)["changed"] == 3  # the store's
    assert not (tmp_path / "cuda_driver.json").exists()


def test_the_driver_can_be_left_to_others(fleet: Fleet, tmp_path: Path) -> None:
    plug(tmp_path / "hardware")
    fleet.variables |= {"cuda_driver_enabled": False, "cuda_driver_repository": "http://127.0.0.1:1"}
    fleet.ok("lock")
    assert fleet.ok("site") == 3
