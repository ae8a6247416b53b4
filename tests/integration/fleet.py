# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running playbooks as a user does: by name, with an inventory, from any directory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.hub import Hub
from tests.integration.harness import CHECKOUT, environment


class Fleet:
    """An inventory whose hosts are this machine; by default it is one."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.home = directory / "home"
        self.home.mkdir()
        self.inventory = directory / "inventory" / "hosts.yml"
        self.inventory.parent.mkdir()
        self.lock_file = directory / "inventory" / "models.lock.json"
        self.root = directory / "store"
        self.link = directory / "embedded"
        self.hosts: dict[str, dict[str, Any]] = {"gpu-1": {}}
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            # No GPU: whatever machine this is, its driver stays as it is.
            "cuda_driver_root": str(directory / "hardware"),
            "cuda_driver_record": str(directory / "cuda_driver.json"),
            "model_store_endpoint": hub.endpoint,
            "model_store_root": str(self.root),
            "model_store_link": str(self.link),
            "model_store_retries": 1,
            # These are files alone.
            "model_store_smoke": "off",
            "model_catalog": [{"name": "tiny", "repo_id": "acme/tiny"}, {"name": "big", "repo_id": "acme/big"}],
        }

    def play(self, name: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection, or a file, and return what came of it."""
        with self.started(name, *arguments, **environ) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def started(self, name: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start a playbook of the collection, or a file, as a process group of its own."""
        playbook = name if name.endswith(".yml") else f"gpufleet.models.{name}"
        inventory = {"all": {"hosts": self.hosts, "vars": self.variables}}
        self.inventory.write_text(yaml.safe_dump(inventory), encoding="utf-8")
        return subprocess.Popen(
            ["ansible-playbook", "-i", str(self.inventory), playbook, *arguments],
            env=environment(self.home, ANSIBLE_COLLECTIONS_PATH=str(CHECKOUT / ".collections"), **environ),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ok(self, name: str, *arguments: str) -> int:
        """Require that a playbook succeeds without a warning; return how many tasks changed something."""
        process = self.play(name, *arguments)
        assert process.returncode == 0, process.stdout + process.stderr
        assert "WARNING" not in process.stderr, process.stderr
        return recap(process)["changed"]

    def fails(self, name: str, *arguments: str) -> str:
        """Require that a playbook fails, and return all that it printed on one line."""
        process = self.play(name, *arguments)
        assert process.returncode != 0, process.stdout
        assert recap(process)["failed"] == 1, process.stdout
        assert "Traceback" not in process.stdout + process.stderr
        return " ".join((process.stdout + process.stderr).split())

    @property
    def current(self) -> str:
        return str((self.root / "current").readlink())


def recaps(process: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    """Return the counters of the recap by host."""
    lines = re.findall(r"^(\S+) +: (ok=.*)", process.stdout, re.MULTILINE)
    return {host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)} for host, line in lines}


def recap(process: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the counters of the recap's last host."""
    return list(recaps(process).values())[-1]
