# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Molecule scenario as its tests see it: playbooks as a user runs them, and what hosts have by their own word."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host as Testinfra

from tests.hub import Hub

CHECKOUT = Path(__file__).resolve().parents[2]
# This machine, as the hosts see it; as in molecule/hosts/vars/common.yml.
GATEWAY = "10.77.31.1"

_LOOK_STORE = (CHECKOUT / "tests/hosts/look_store.py").read_text(encoding="utf-8")
_FLIP = """
import os, sys
path, offset = sys.argv[1], int(sys.argv[2])
before = os.stat(path)
with open(path, "r+b") as stream:
    stream.seek(offset)
    byte = stream.read(1)[0]
    stream.seek(offset)
    stream.write(bytes([byte ^ 1]))
os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
"""


@dataclass(frozen=True)
class Play:
    """What came of a playbook: its status, and all that it printed."""

    status: int
    output: str

    def recap(self, host: str) -> dict[str, int]:
        """Return a host's counters."""
        line = re.search(rf"^{host}\s+: (ok=.*)$", self.output, re.MULTILINE)
        assert line, f"{host} had no part in it:\n{self.output}"
        return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line[1])}

    def ended(self, host: str) -> str:
        """Return how it ended for a host: ``ok``, ``failed`` or ``unreachable``."""
        recap = self.recap(host)
        return next((end for end in ("unreachable", "failed") if recap[end]), "ok")

    def why(self, host: str) -> str:
        """Return what was said when a host failed for the last time, on one line."""
        found = re.findall(rf"^fatal: \[{host}\]: .*(?:\n[ \t]+.*)*", self.output, re.MULTILINE)
        assert found, f"nothing was said of {host}:\n{self.output}"
        return " ".join(found[-1].split())


class RunningPlay:
    """A playbook that runs."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = command
        # Not a pipe: nobody reads while it runs.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> Play:
        """Wait for its end."""
        status = self._process.wait()
        self._output.seek(0)
        output = f"$ {shlex.join(self._command)}\n{self._output.read()}"
        self._output.close()
        print(output)  # pytest shows it if the test fails
        return Play(status, output)


class Host:
    """A host, without any help of the collection's."""

    def __init__(self, testinfra_host: Testinfra, container: str) -> None:
        self.testinfra = testinfra_host
        self.container = container

    def run(self, command: str, *arguments: object) -> str:
        """Run a shell command that must succeed; return what it prints. Each %s is an argument, %% a per cent sign."""
        return str(self.testinfra.check_output(command % tuple(shlex.quote(str(each)) for each in arguments))).strip()

    @property
    def answers(self) -> bool:
        """Whether it can be reached."""
        try:
            return bool(self.testinfra.run("true").rc == 0)
        except RuntimeError:  # what testinfra makes of a connection that fails
            return False

    @property
    def current(self) -> str:
        """Where the link to what is served points; empty where there is none."""
        return self.run("readlink /opt/models/current || true")

    def sums(self, directory: str = "/opt/models/current/") -> dict[str, str]:
        """Return the SHA-256 of all files below a directory by sha256sum's word, without generations' manifests."""
        command = "cd %s && find . -type f ! -name .generation.json -printf '%%P\\0' | xargs -0r sha256sum"
        lines = self.run(command, directory).splitlines()
        return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}

    def store(self) -> dict[str, Any]:
        """Return what is current, and the SHA-256 of the files of all generations and of all blobs."""
        store: dict[str, Any] = json.loads(self.run("python3 -c %s /opt/models", _LOOK_STORE))
        return store

    def damage(self, path: str, offset: int) -> None:
        """Flip a bit of a file as a disk does it: nothing but the content tells."""
        self.run("python3 -c %s %s %s", _FLIP, path, offset)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of what is served."""
        manifest: dict[str, Any] = json.loads(self.run("cat /opt/models/current/.generation.json"))
        return manifest


class Scenario:
    """The hosts and the inventory that Molecule has made."""

    def __init__(self) -> None:
        self.directory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
        self.inventory = self.directory / "fleet" / "hosts.yml"
        self.lock = self.inventory.parent / "models.lock.json"

    @cached_property
    def hosts(self) -> dict[str, Host]:
        """The hosts by name."""
        prefix = f"gpufleet-{os.environ['MOLECULE_SCENARIO_NAME']}-"
        found = testinfra.get_hosts(["ansible://gpu"], ansible_inventory=str(self.inventory))
        names = [host.backend.get_pytest_id().partition("://")[2] for host in found]
        return {name: Host(host, prefix + name) for name, host in zip(names, found, strict=True)}

    def relock(self, hub: Hub, **variables: Any) -> None:
        """Lock the newest commits that a Hub has, and leave Python alone; ``model_catalog`` is another catalog."""
        self.ok("lock", model_store_endpoint=hub.endpoint, model_store_upgrade=True, python_venv_groups=[], **variables)

    def stores(self, *names: str) -> dict[str, dict[str, Any]]:
        """Return what the stores of these hosts hold, or of all, several at a time."""
        hosts = [self.hosts[name] for name in names or self.hosts]
        with ThreadPoolExecutor(4) as executor:
            return dict(zip(names or self.hosts, executor.map(Host.store, hosts), strict=True))

    def locked(self, *names: str) -> dict[str, str]:
        """Return the SHA-256 of the files of these models, or of all, by path below ``current``, as the lock says."""
        models = json.loads(self.lock.read_text(encoding="utf-8"))["models"]
        return {
            f"{model['name']}/{file['path']}": file["sha256"]
            for model in models
            for file in model["files"]
            if not names or model["name"] in names
        }

    def start(self, playbook: str, *arguments: str, **variables: Any) -> RunningPlay:
        """Start a playbook of the collection as a user does in a checkout."""
        command = ["ansible-playbook", "-i", str(self.inventory), f"gpufleet.models.{playbook}", *arguments]
        if variables:
            command += ["-e", json.dumps(variables)]
        foreign = ("ANSIBLE_", "MOLECULE_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return RunningPlay(command, {**kept, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "LC_ALL": "C.UTF-8"})

    def play(self, playbook: str, *arguments: str, **variables: Any) -> Play:
        """Run a playbook to its end."""
        return self.start(playbook, *arguments, **variables).finish()

    def ok(self, playbook: str, *arguments: str, **variables: Any) -> Play:
        """Require that a playbook succeeds on all of its hosts."""
        play = self.play(playbook, *arguments, **variables)
        assert play.status == 0, play.output
        return play

    def podman(self, *arguments: str) -> None:
        """Run podman, which must succeed."""
        subprocess.run(["sh", "tests/hosts/podman.sh", *arguments], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)

    def power_off(self, *names: str) -> None:
        """Let hosts lose their power."""
        for name in names:
            self.podman("kill", self.hosts[name].container)

    def power_on(self, *names: str) -> None:
        """Let them boot, and wait until they can be reached."""
        for name in names:
            self.podman("start", self.hosts[name].container)
        deadline = time.monotonic() + 60
        for name in names:
            while not self.hosts[name].answers:
                assert time.monotonic() < deadline, f"{name} does not answer"
                time.sleep(0.5)
