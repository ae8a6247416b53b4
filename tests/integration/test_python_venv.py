# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role python_venv, as a user runs it: lock, serve, fail, go back, remove; with the real uv and a local index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hub import Hub
from tests.index import Index, Wheel
from tests.integration.fleet import recap
from tests.integration.harness import CHECKOUT, environment, snapshot

# Names from the role's groups, so that no real package is needed.
PROMETHEUS = Wheel("prometheus_client", "1.0", requires=("psutil >= 1",))
PSUTIL = Wheel("psutil", "1.0")
PSUTIL_2 = Wheel("psutil", "2.0")
NVIDIA = Wheel("nvidia_ml_py", "13.0", {"pynvml.py": "version = '13.0'\n"})
UV = Path(sys.executable).parent / "uv"


class Fleet:
    """An inventory whose hosts are this machine."""

    def __init__(self, index: Index, directory: Path) -> None:
        self.index = index
        self.home = directory / "home"
        self.home.mkdir()
        self.root = directory / "opt"
        self.link = self.root / "env"
        self.inventory = directory / "inventory" / "hosts.yml"
        self.inventory.parent.mkdir()
        self.lock_file = self.inventory.parent / "python.lock.txt"
        self.hosts: dict[str, dict[str, Any]] = {"gpu-1": {}}
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "python_venv_groups": ["monitoring"],
            "python_venv_path": str(self.link),
            "python_venv_python": sys.executable,
            "python_venv_index_url": index.url,
            "python_venv_environment": {"UV_HTTP_RETRIES": "0"},
            # As if an earlier run had put it there.
            "python_venv_uv": shutil.copy(UV, directory),
        }

    def play(self, entry: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an entry point of the role."""
        role = {"name": "gpufleet.models.python_venv", "tasks_from": entry}
        play = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
        playbook = self.home / "play.yml"
        playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
        return self.playbook(str(playbook), *arguments)

    def playbook(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook, of the collection or by its path."""
        inventory = {"all": {"hosts": self.hosts, "vars": self.variables}}
        self.inventory.write_text(yaml.safe_dump(inventory), encoding="utf-8")
        return subprocess.run(
            ["ansible-playbook", "-i", str(self.inventory), name, *arguments],
            env=environment(self.home, ANSIBLE_COLLECTIONS_PATH=str(CHECKOUT / ".collections")),
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, entry: str, *arguments: str) -> int:
        """Require that it succeeds without a warning; return how many tasks changed something."""
        process = self.play(entry, *arguments)
        assert process.returncode == 0, process.stdout + process.stderr
        assert "WARNING" not in process.stderr, process.stderr
        return recap(process)["changed"]

    def fails(self, entry: str, *arguments: str) -> str:
        """Require that it fails, and return all that was printed on one line."""
        process = self.play(entry, *arguments)
        assert process.returncode != 0, process.stdout
        assert "Traceback" not in process.stdout + process.stderr, process.stdout + process.stderr
        return " ".join((process.stdout + process.stderr).split())

    def packages(self) -> dict[str, str]:
        """Return what is served, by the word of uv."""
        command = [UV, "pip", "list", "--format", "json", "--python", self.link / "bin" / "python"]
        listing = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(self.home)).stdout
        return {entry["name"]: entry["version"] for entry in json.loads(listing)}

    def name(self) -> str:
        return self.link.readlink().name


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Index(PROMETHEUS, PSUTIL, NVIDIA) as index:
        yield Fleet(index, tmp_path)


@pytest.fixture
def upgraded(fleet: Fleet) -> Fleet:
    """A fleet that serves its lock, and a lock with a newer version of one package."""
    fleet.ok("lock")
    fleet.ok("main")
    fleet.index.wheels.append(PSUTIL_2)
    assert fleet.ok("lock") == 0  # what is locked stays
    assert fleet.ok("lock", "-e", '{"python_venv_upgrade": ["psutil"]}') == 1
    fleet.index.requests.clear()
    return fleet


def test_the_whole_path(fleet: Fleet) -> None:
    assert fleet.ok("lock", "--check") == 1
    assert not fleet.lock_file.exists()
    assert fleet.ok("lock") == 1
    assert fleet.ok("lock") == 0
    assert "psutil==1.0" in fleet.lock_file.read_text(encoding="utf-8")

    assert fleet.ok("main", "--check", "--diff") == 1
    assert not fleet.root.exists()
    assert fleet.ok("main") == 1
    assert fleet.packages() == {"prometheus-client": "1.0", "psutil": "1.0"}
    before = snapshot(fleet.root)
    fleet.index.requests.clear()
    assert fleet.ok("main") == 0
    assert fleet.ok("main", "--check") == 0
    assert fleet.index.requests == []
    assert snapshot(fleet.root) == before


def test_an_upgrade_and_the_way_back(upgraded: Fleet) -> None:
    first = upgraded.name()
    assert upgraded.ok("main") == 1
    assert upgraded.packages() == {"prometheus-client": "1.0", "psutil": "2.0"}
    # Only what is new was fetched.
    assert upgraded.index.files == [PSUTIL_2.filename]
    assert upgraded.ok("activate") == 1
    assert upgraded.name() == first
    assert upgraded.packages()["psutil"] == "1.0"
    assert upgraded.ok("main") == 1
    assert upgraded.packages()["psutil"] == "2.0"


def test_the_playbook_goes_back(upgraded: Fleet) -> None:
    first = upgraded.name()
    upgraded.ok("main")
    upgraded.hosts["gpu-2"] = {"python_venv_groups": [], "ansible_python_interpreter": "/nonexistent"}
    process = upgraded.playbook("gpufleet.models.rollback_python")
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"serves environment {first} with Python 3." in process.stdout
    assert upgraded.name() == first
    assert upgraded.packages()["psutil"] == "1.0"
    assert "no earlier environment" in upgraded.playbook("gpufleet.models.rollback_python").stdout
    assert upgraded.name() == first


def test_a_failure_leaves_what_was_served(upgraded: Fleet) -> None:
    first, before = upgraded.name(), upgraded.packages()
    with upgraded.index.fault(PSUTIL_2, "flipped"):
        output = upgraded.fails("main")
    assert "psutil==2.0" in output
    assert f"environment {first} is served as before" in output
    assert (upgraded.name(), upgraded.packages()) == (first, before)
    upgraded.variables["python_venv_imports"] = ["no_such_module"]
    assert "import no_such_module failed with ModuleNotFoundError" in upgraded.fails("main")
    assert (upgraded.name(), upgraded.packages()) == (first, before)
    del upgraded.variables["python_venv_imports"]
    assert upgraded.ok("main") == 1


def test_a_failure_after_the_switch_goes_back(upgraded: Fleet) -> None:
    first = upgraded.name()
    upgraded.variables["python_venv_env_file"] = str(upgraded.home / "no-such-directory" / ".env")
    assert "no-such-directory" in upgraded.fails("main")
    assert upgraded.name() == first


def test_a_failure_takes_back_only_what_this_run_did(upgraded: Fleet) -> None:
    first = upgraded.name()
    upgraded.variables["python_venv_groups"] = ["monitoring", "monitorring"]
    assert "monitorring not found" in upgraded.fails("main")
    upgraded.variables["python_venv_groups"] = ["monitoring", "api"]
    assert "lacks" in upgraded.fails("main")
    assert upgraded.name() == first


def test_a_failure_after_the_first_switch_serves_nothing(fleet: Fleet) -> None:
    fleet.ok("lock")
    fleet.variables["python_venv_env_file"] = str(fleet.home / "no-such-directory" / ".env")
    fleet.fails("main")
    assert not fleet.link.is_symlink()


def test_env_file(fleet: Fleet) -> None:
    """The variables of the seeds."""
    fleet.ok("lock")
    file = fleet.home / ".env"
    fleet.variables["python_venv_env_file"] = str(file)
    fleet.variables["python_venv_env"] = {"HF_HOME": "/opt/models/.cache", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert fleet.ok("main") == 2
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == ["CUDA_VISIBLE_DEVICES=0,1", "HF_HOME=/opt/models/.cache", f"VIRTUAL_ENV={fleet.link}"]
    assert fleet.ok("main") == 0


def test_the_cache_is_removed_on_request(fleet: Fleet) -> None:
    fleet.ok("lock")
    fleet.ok("main")
    cache = fleet.root / "env.d" / ".cache"
    assert cache.is_dir()
    fleet.variables["python_venv_clean_cache"] = True
    assert fleet.ok("main", "--check") == 1
    assert fleet.ok("main") == 1
    assert not cache.exists()
    assert fleet.ok("main") == 0
    assert fleet.packages() == {"prometheus-client": "1.0", "psutil": "1.0"}


def test_a_python_that_cannot_be_had(fleet: Fleet) -> None:
    """The sentence tells the ways out. Nothing of this machine shall be changed to find out."""
    fleet.ok("lock")
    fleet.variables["python_venv_python"] = "3.98"
    output = fleet.fails("main", "--check")
    assert "python_venv_python: expected Python 3.98, found none, and python3.98 could not be installed (" in output
    found = ".".join(map(str, sys.version_info[:2]))
    assert f"such as {found}, the path of an interpreter, or let uv bring one with python_venv_managed_python" in output


def test_absent(fleet: Fleet) -> None:
    fleet.ok("lock")
    fleet.ok("main")
    assert fleet.ok("absent", "--check") == 1
    assert fleet.link.exists()
    assert fleet.ok("absent") == 1
    assert list(fleet.root.iterdir()) == []
    assert fleet.ok("absent") == 0


def test_without_groups_nothing_runs(fleet: Fleet) -> None:
    fleet.variables["python_venv_groups"] = []
    fleet.variables["ansible_python_interpreter"] = "/nonexistent"
    for entry in ("lock", "main"):
        assert fleet.ok(entry) == 0
    assert not fleet.lock_file.exists()
    assert not fleet.root.exists()


def test_one_lock_for_all_hosts_that_name_it(fleet: Fleet) -> None:
    other = fleet.inventory.parent / "facts.lock.txt"
    fleet.hosts = {
        "gpu-1": {"python_venv_groups": []},
        "gpu-2": {},
        "gpu-3": {"python_venv_groups": ["monitoring", "monitoring"]},
        "gpu-4": {"python_venv_groups": ["facts"], "python_venv_lock": str(other)},
    }
    fleet.ok("lock")
    assert "psutil==" in fleet.lock_file.read_text(encoding="utf-8")
    assert "nvidia-ml-py" not in fleet.lock_file.read_text(encoding="utf-8")
    assert "psutil" not in other.read_text(encoding="utf-8")
    assert "nvidia-ml-py==" in other.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("python_venv_groups", ["monitoring", "facts"]),
        ("python_venv_extra_requirements", ["psutil < 2"]),
        ("python_venv_torch", "cpu"),
        ("python_venv_lock_python", "3.12"),
        ("python_venv_index_url", "http://reader:QxZ7password@127.0.0.1:9/simple"),
        ("python_venv_extra_index_urls", ["http://127.0.0.1:9/simple"]),
        ("python_venv_controller_find_links", ["/mnt/wheels"]),
    ],
)
def test_hosts_that_share_a_lock_must_agree(fleet: Fleet, variable: str, value: Any) -> None:
    fleet.hosts = {"gpu-1": {}, "gpu-2": {}, "gpu-3": {variable: value}}
    output = fleet.fails("lock", "-vv")
    assert f"{fleet.lock_file}: gpu-1 and gpu-3 share it and differ in {variable}; make them agree" in output
    assert "QxZ7password" not in output
    assert fleet.index.requests == []
    assert not fleet.lock_file.exists()


def test_a_lock_is_not_made_for_a_part_of_its_hosts(fleet: Fleet) -> None:
    fleet.hosts = {"gpu-1": {}, "gpu-2": {"python_venv_groups": ["monitoring", "facts"]}}
    for limit in fleet.hosts:
        assert "shares it and has no part in this run; lock for all hosts" in fleet.fails("lock", "--limit", limit)
    assert not fleet.lock_file.exists()
    # Others may stay away.
    fleet.hosts["gpu-2"]["python_venv_lock"] = str(fleet.inventory.parent / "other.lock.txt")
    fleet.hosts["gpu-3"] = {"python_venv_groups": []}
    fleet.ok("lock", "--limit", "gpu-1")
    assert not (fleet.inventory.parent / "other.lock.txt").exists()
    assert fleet.lock_file.exists()


def test_what_is_missing_is_named(fleet: Fleet) -> None:
    assert "make it with the playbook gpufleet.models.lock" in fleet.fails("main")
    fleet.variables["python_venv_groups"] = ["core", "corps"]
    output = fleet.fails("main")
    assert "python_venv_groups: corps not found" in output
    assert not fleet.root.exists()


def test_the_playbook_locks_models_and_packages(fleet: Fleet, hub: Hub) -> None:
    fleet.variables["model_catalog"] = [{"name": "tiny", "repo_id": "acme/tiny"}]
    fleet.variables["model_store_endpoint"] = hub.endpoint
    process = fleet.playbook("gpufleet.models.lock")
    assert process.returncode == 0, process.stdout + process.stderr
    assert fleet.lock_file.exists()
    assert (fleet.inventory.parent / "models.lock.json").exists()


def test_uv_is_put_there(fleet: Fleet) -> None:
    """From PyPI, by way of the control node."""
    fleet.ok("lock")
    del fleet.variables["python_venv_uv"]
    fleet.variables["python_venv_controller_cache"] = str(fleet.home / "cache")
    assert fleet.ok("main") > 1
    uv = next((fleet.root / "env.uv").iterdir())
    version = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout
    assert uv.name == f"uv-{version.split()[1]}"
    assert fleet.ok("main") == 0
    assert fleet.ok("absent") == 2
    assert list(fleet.root.iterdir()) == []
