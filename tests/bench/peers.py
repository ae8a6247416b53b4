# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Those that are compared: how each of them downloads and verifies models, and how each verifies what is there.

A peer writes what its commands read, and returns the commands. Only the commands are measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process import Command
from .workloads import Workload


@dataclass(frozen=True)
class Job:
    """A workload, and an empty directory for it."""

    workload: Workload
    endpoint: str
    target: Path

    def files(self) -> Iterator[tuple[str, Path, str]]:
        """Yield each file's address, its path below the tree of models, and its SHA-256."""
        for model in self.workload.models:
            for file in model["files"]:
                url = f"{self.endpoint}/{model['repo_id']}/resolve/{model['commit']}/{file['path']}"
                yield url, Path(model["name"], file["path"]), file["sha256"]

    def write(self, name: str, content: str) -> str:
        """Write a file for a command and return its path."""
        path = self.target / name
        path.write_text(content, encoding="utf-8")
        return str(path)

    def playbook(self, tasks: list[dict[str, Any]]) -> Command:
        """Return the command that runs tasks on this machine."""
        play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
        return "ansible-playbook", self.write("playbook.json", json.dumps([play]))


@dataclass(frozen=True)
class Work:
    """Commands to run one after the other, and the tree of models that they leave or look at."""

    commands: list[Command]
    tree: Path


def download_model_generation(job: Job) -> Work:
    """Receive, verify, flush to disk and serve, in one task."""
    store = job.target / "store"
    arguments = {
        "root": str(store),
        "models": f"{{{{ (lookup('ansible.builtin.file', '{job.workload.lock}') | from_json).models }}}}",
        "endpoint": job.endpoint,
    }
    return Work([job.playbook([{"gpufleet.models.model_generation": arguments}])], store / "current")


def download_hf(job: Job) -> Work:
    """Download and verify each repository with the official client."""
    commands: list[Command] = []
    for model in job.workload.models:
        place = ["--revision", model["commit"], "--local-dir", str(job.target / model["name"])]
        commands.append(["hf", "download", model["repo_id"], *place])
    return Work(commands + _verify_with_hf(job, job.target), job.target)


def download_aria2c(job: Job) -> Work:
    """Download with several connections for each file, then hash."""
    lines = [f"{url}\n  dir={job.target / path.parent}\n  out={path.name}" for url, path, _sha256 in job.files()]
    addresses = job.write("addresses", "\n".join(lines))
    download = ["aria2c", "-x8", "-s8", "-j4", "--quiet", f"--input-file={addresses}"]
    return Work([download, *_verify_with_sha256sum(job, job.target)], job.target)


def download_get_url(job: Job) -> Work:
    """Download with Ansible's own module, one file after the other, which checks them."""
    files = []
    for url, path, sha256 in job.files():
        (job.target / path.parent).mkdir(exist_ok=True)
        files.append({"url": url, "dest": str(job.target / path), "checksum": f"sha256:{sha256}"})
    arguments = {name: f"{{{{ item.{name} }}}}" for name in ("url", "dest", "checksum")}
    return Work([job.playbook([{"ansible.builtin.get_url": arguments, "loop": files}])], job.target)


def verify_model_verify(job: Job, store: Path) -> Work:
    """Hash every byte of the generation that is served."""
    return Work([job.playbook([{"gpufleet.models.model_verify": {"root": str(store)}}])], store / "current")


def verify_hf(job: Job, store: Path) -> Work:
    """Hash the same files with the official client."""
    return Work(_verify_with_hf(job, store / "current"), store / "current")


def verify_sha256sum(job: Job, store: Path) -> Work:
    """Hash the same files with coreutils."""
    return Work(_verify_with_sha256sum(job, store / "current"), store / "current")


def _verify_with_hf(job: Job, tree: Path) -> list[Command]:
    return [
        [
            *("hf", "cache", "verify", model["repo_id"], "--revision", model["commit"]),
            *("--local-dir", str(tree / model["name"]), "--fail-on-missing-files"),
        ]
        for model in job.workload.models
    ]


def _verify_with_sha256sum(job: Job, tree: Path) -> list[Command]:
    sums = job.write("SHA256SUMS", "".join(f"{sha256}  {tree / path}\n" for _url, path, sha256 in job.files()))
    return [["sha256sum", "--check", "--strict", "--quiet", sums]]


DOWNLOADERS: dict[str, Callable[[Job], Work]] = {
    "model_generation": download_model_generation,
    "hf download; hf cache verify": download_hf,
    "aria2c -x8 -s8 -j4; sha256sum -c": download_aria2c,
    "get_url with checksum": download_get_url,
}

VERIFIERS: dict[str, Callable[[Job, Path], Work]] = {
    "model_verify": verify_model_verify,
    "hf cache verify": verify_hf,
    "sha256sum -c": verify_sha256sum,
}
