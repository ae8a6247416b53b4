# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Python environments: made by the module and by pip from the same wheels, and what it costs that nothing changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .process import ROOT, BenchError, Command, Usage, environment, run, typical
from .report import Report, Row, Target

# Everything that hosts commonly have, without torch, whose size hides all differences.
REQUIREMENTS = [
    *("transformers", "fastapi", "uvicorn", "strawberry-graphql", "grpcio", "pytest", "pytest-asyncio", "pytest-cov"),
    *("locust", "psycopg[binary]", "redis", "qdrant-client", "prometheus-client", "psutil", "nvidia-ml-py"),
]
OURS, PIP = "python_env", "python -m venv; pip install"
MODULE = "ansible_collections.gpufleet.models.plugins.modules"


class Environments:
    """Wheels of a lock, fetched once, and the commands that install them without any network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.wheels = directory / "wheels"
        self.lock = directory / "python.lock.txt"
        self.link = directory / "ours" / "env"
        self.pip = directory / "pip"
        # Fetching is not measured: it goes where the user's own settings say.
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}

    def prepare(self) -> int:
        """Lock and download; return the number of packages."""
        version = ".".join(map(str, sys.version_info[:2]))
        arguments = {"requirements": REQUIREMENTS, "dest": str(self.lock), "python": version}
        run(self._module("python_lock", arguments), self.environ)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
        run([*download, "--only-binary=:all:", "-r", str(self.lock), "-d", str(self.wheels)], self.environ)
        return len(list(self.wheels.iterdir()))

    def _module(self, name: str, arguments: dict[str, object]) -> Command:
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
        return [sys.executable, "-m", f"{MODULE}.{name}", str(path)]

    def arguments(self) -> dict[str, object]:
        return {
            "path": str(self.link),
            "requirements": self.lock.read_text(encoding="utf-8"),
            "python": sys.executable,
            "find_links": [str(self.wheels)],
            "offline": True,
        }

    def ours(self) -> list[Command]:
        """The module as a task of a playbook."""
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": [{"gpufleet.models.python_env": self.arguments()}],
        }
        playbook = self.directory / "playbook.json"
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        return [["ansible-playbook", str(playbook)]]

    def alone(self) -> list[Command]:
        """The module by itself, as it runs on a host."""
        return [self._module("python_env", self.arguments())]

    def theirs(self) -> list[Command]:
        install = [str(self.pip / "bin" / "pip"), "install", "--quiet", "--require-hashes", "--no-deps", "--no-index"]
        return [
            [sys.executable, "-m", "venv", str(self.pip)],
            [*install, "--find-links", str(self.wheels), "-r", str(self.lock)],
        ]

    def forget(self) -> None:
        """Remove what was installed; the cache stays."""
        shutil.rmtree(self.pip, ignore_errors=True)
        self.link.unlink(missing_ok=True)
        for path in self.link.parent.glob("env.d/[0-9a-f]*"):
            shutil.rmtree(path, ignore_errors=True)
        os.sync()


def measure_environments(directory: Path, runs: int, report: Report) -> None:
    """Nothing → installed from a warm cache, then again with nothing to do."""
    place = directory / "python"
    place.mkdir()
    environments = Environments(place)
    count = environments.prepare()
    environ = {**environment(place / "home", ""), "PYTHONPATH": str(ROOT / ".collections")}
    usages: dict[str, list[Usage]] = {OURS: [], PIP: []}
    _all(environments.ours(), environ)  # fills the cache
    for _round in range(runs):
        for peer, commands in ((OURS, environments.ours), (PIP, environments.theirs)):
            environments.forget()
            usages[peer].append(_all(commands(), environ))
            _require_packages(environments.link if peer == OURS else environments.pip, count)
    _all(environments.ours(), environ)
    idle = [_all(environments.alone(), environ) for _round in range(runs)]
    shutil.rmtree(place)

    name = f"Python environment of {count} packages, warm cache"
    times = typical(usages[PIP]).seconds / typical(usages[OURS]).seconds
    report.add(Row(name, OURS, usages[OURS], None, f"{times:.2f} times pip; with starting Ansible, flushed to disk"))
    report.add(Row(name, PIP, usages[PIP], None, ""))
    report.targets.append(Target(name, "at least 3 times pip", f"{times:.2f} times", times >= 3))
    name = "The same again, nothing to do"
    report.add(Row(name, "python_env by itself", idle, None, ""))
    seconds = typical(idle).seconds
    report.targets.append(Target(name, "less than 1 s", f"{seconds:.2f} s", seconds < 1))


def _all(commands: list[Command], environ: dict[str, str]) -> Usage:
    total = Usage(0, 0, 0)
    for command in commands:
        usage, _text = run(command, environ)
        total = total.then(usage)
    return total


def _require_packages(directory: Path, count: int) -> None:
    """Let the environment's own Python import something of it, and count what is installed."""
    script = (
        "import fastapi, transformers; from importlib.metadata import distributions; "
        "print(len({found.name for found in distributions()} - {'pip', 'setuptools'}))"
    )
    command = [str(directory / "bin" / "python"), "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if found != str(count):
        raise BenchError(f"{directory} has {found} packages, expected {count}")
