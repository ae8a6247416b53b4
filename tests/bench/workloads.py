# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is downloaded and verified: models on disk, the local Hub that serves them, and their locks."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .process import ROOT, BenchError, environment, run, stop

MIB = 1024 * 1024

_HEADER = 4096  # bytes before the tensor


@dataclass(frozen=True)
class Sizes:
    """Sizes of weights in MiB."""

    shard: int = 512
    single: int = 2048
    huge: int = 4096

    @property
    def needed_bytes(self) -> int:
        """What all of it takes on disk: the sources, the largest copy of one of them, and some room."""
        return (4 * self.shard + self.single + self.huge + max(4 * self.shard, self.huge)) * MIB * 5 // 4


@dataclass(frozen=True)
class Workload:
    """Models that are wanted together. ``inventory`` is a directory with ``hosts.json`` and ``models.lock.json``."""

    label: str
    inventory: Path

    @property
    def lock(self) -> Path:
        """The lock with the models."""
        return self.inventory / "models.lock.json"

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """The models as the lock names them."""
        models: list[dict[str, Any]] = json.loads(self.lock.read_text(encoding="utf-8"))["models"]
        return models

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file["size"] for model in self.models for file in model["files"])


@dataclass(frozen=True)
class Workloads:
    """All of them."""

    shards: Workload
    single: Workload
    many: Workload
    tiny: Workload
    shard: Workload
    huge: Workload


def make_workloads(directory: Path, sizes: Sizes) -> Workloads:
    """Write the models, let the Hub compute their digests, and lock them."""
    sources = directory / "sources"
    for number in range(1, 5):
        write_weights(sources / "shards" / f"model-{number:05}-of-00004.safetensors", sizes.shard, number)
        write_small_files(sources / f"many-{number}", 19 if number == 1 else 20)
    write_weights(sources / "single" / "model.safetensors", sizes.single, 5)
    write_weights(sources / "huge" / "model.safetensors", sizes.huge, 6)
    write_small_files(sources / "tiny", 1)
    shard = sources / "shards" / "model-00001-of-00004.safetensors"
    for name in ("many-1", "shard"):
        (sources / name).mkdir(exist_ok=True)
        (sources / name / "model.safetensors").hardlink_to(shard)

    with running_hub(directory) as endpoint:

        def lock(label: str, *names: str) -> Workload:
            return _locked(label, names, directory / "inventories" / names[0], endpoint)

        return Workloads(
            lock(f"4 x {_size(sizes.shard)}", "shards"),
            lock(f"1 x {_size(sizes.single)}", "single"),
            lock(f"4 models of 20 files, one of {_size(sizes.shard)}", *(f"many-{number}" for number in range(1, 5))),
            lock("one small file", "tiny"),
            lock(f"1 x {_size(sizes.shard)}", "shard"),
            lock(f"1 x {_size(sizes.huge)}", "huge"),
        )


@contextlib.contextmanager
def running_hub(directory: Path, *options: str) -> Iterator[str]:
    """Serve the models of a directory from a process of its own, with every file in the page cache; give its address.

    :param options: Further options of ``python -m tests.hub``.
    """
    port_file = directory / "hub.json"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.hub", *options]
    command += ["--port-file", str(port_file), "--digest-cache", str(directory / "digests.json")]
    for source in sorted((directory / "sources").iterdir()):
        command += ["--repo", f"bench/{source.name}={source}"]
        for file in source.iterdir():
            read_through(file)
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while not port_file.exists():
            if process.poll() is not None:
                raise BenchError(f"the local Hub ended with {process.returncode}")
            time.sleep(0.05)
        endpoint: str = json.loads(port_file.read_text(encoding="utf-8"))["endpoint"]
        yield endpoint
    finally:
        stop(process)


def read_through(path: Path) -> None:
    """Bring a file into the page cache."""
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _locked(label: str, names: tuple[str, ...], inventory: Path, endpoint: str) -> Workload:
    inventory.mkdir(parents=True)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "model_catalog": [{"name": name, "repo_id": f"bench/{name}"} for name in names],
    }
    hosts = {"all": {"hosts": {"bench": variables}}}
    (inventory / "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
    command = ["ansible-playbook", "-i", str(inventory / "hosts.json"), "gpufleet.models.lock"]
    run([*command, "-e", f"model_store_endpoint={endpoint}"], environment(inventory / "home", endpoint))
    return Workload(label, inventory)


def write_weights(path: Path, size: int, seed: int) -> None:
    """Write a safetensors file of ``size`` MiB: one tensor of pseudo-random bytes."""
    length = size * MIB - _HEADER
    header = json.dumps({"weight": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
    content = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w+b") as stream:
        for _mib in range(size):
            stream.write(content.randbytes(MIB))
        stream.seek(0)
        stream.write(struct.pack("<Q", _HEADER - 8) + header.ljust(_HEADER - 8))


def write_small_files(directory: Path, count: int) -> None:
    """Write files of some KiB, no two of them alike."""
    directory.mkdir(parents=True)
    for number in range(count):
        content = json.dumps({"path": f"{directory.name}/{number}", "values": list(range(number, number + 1000))})
        (directory / f"part-{number:02}.json").write_text(content, encoding="utf-8")


def _size(mib: int) -> str:
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"
