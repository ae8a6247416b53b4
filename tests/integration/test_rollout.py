# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rolling out to several hosts: staged on all, then served on all, or on none."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import Flip
from tests.integration.fleet import Fleet

GATE = """
- name: Drain
  ansible.builtin.shell: >-
    echo '{kind} {{{{ model_store_hook.generation }}}} {{{{ model_store_hook.previous_generation }}}}
    {{{{ model_store_hook.way_back }}}} '"$(readlink current)" >> hooks.txt;
    test ! -e {kind}-fails
  args:
    chdir: "{{{{ model_store_root }}}}"
  changed_when: false
"""


class Hosts(Fleet):
    """Several hosts, each with a store of its own, and a lock of one small model."""

    def __init__(self, hub: Hub, directory: Path, names: list[str]) -> None:
        super().__init__(hub, directory)
        self.directory = directory
        self.model = directory / "model"
        self.model.mkdir()
        self.variables["model_catalog"] = [{"name": "small", "repo_id": "acme/small"}]
        self.variables["model_store_link"] = ""
        self.variables["cuda_driver_enabled"] = False
        self.hosts = {name: {"model_store_root": str(directory / name)} for name in names}
        self.write("first")
        hub.add_repo("acme/small", self.model)
        self.ok("lock")

    def write(self, text: str) -> None:
        (self.model / "config.json").write_text(json.dumps({"model_type": text}), encoding="utf-8")
        (self.model / f"{text}.txt").write_text(text, encoding="utf-8")

    def upgrade(self, text: str) -> None:
        """Lock a newer commit of the model."""
        self.write(text)
        self.hub.repositories["acme/small"].add_commit(self.model)
        self.ok("lock", "-e", "model_store_upgrade=true")
        self.hub.stats.reset()

    def run(self, name: str, *arguments: str, **environ: str) -> dict[str, dict[str, int]]:
        """Run a playbook and return the recap's counters by host; what it said is in ``said``."""
        process = self.play(name, *arguments, **environ)
        self.process = process
        self.status = process.returncode
        self.output = process.stdout + process.stderr
        assert "Traceback" not in self.output, self.output
        lines = [line for line in process.stdout.splitlines() if re.match(r"\S+ +: ok=", line)]
        return {
            line.split()[0]: {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", line)} for line in lines
        }

    def failed(self, name: str, *arguments: str, **environ: str) -> set[str]:
        """Run a playbook and return the hosts that failed or could not be reached."""
        recap = self.run(name, *arguments, **environ)
        failed = {host for host, counts in recap.items() if counts["failed"] or counts["unreachable"]}
        assert bool(failed) == (self.status != 0), self.output
        return failed

    def message(self, host: str) -> str:
        """Return what a host said when it failed for the last time."""
        found = re.findall(rf"fatal: \[{host}\]: \S+ => (\{{.*\}})$", self.output, re.MULTILINE)
        assert found, self.output
        return str(json.loads(found[-1])["msg"])

    def root_of(self, host: str) -> Path:
        return self.directory / host

    def serves(self) -> dict[str, int | None]:
        """Return the number of the generation that each host serves, by what the link says."""
        found: dict[str, int | None] = {}
        for host in self.hosts:
            link = self.root_of(host) / "current"
            found[host] = int(link.readlink().name) if link.is_symlink() else None
        return found

    def generations(self, host: str) -> list[int]:
        return sorted(int(path.name) for path in (self.root_of(host) / "generations").iterdir())

    def content(self, host: str) -> str:
        text = (self.root_of(host) / "current" / "small" / "config.json").read_text(encoding="utf-8")
        return str(json.loads(text)["model_type"])

    def hook(self, kind: str) -> None:
        path = self.inventory.parent / f"{kind}.yml"
        path.write_text(GATE.format(kind=kind), encoding="utf-8")
        self.variables[f"model_store_{kind}_activate"] = f"{kind}.yml"

    def hooked(self, host: str) -> list[str]:
        """Return what the hooks wrote on a host since the last time, and forget it."""
        path = self.root_of(host) / "hooks.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def hosts(hub: Hub, tmp_path: Path) -> Hosts:
    return Hosts(hub, tmp_path, ["gpu-1", "gpu-2", "gpu-3"])
