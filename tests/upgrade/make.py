# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let an earlier version of the collection write a store: `python -m tests.upgrade.make COMMIT` writes COMMIT.tar.xz.

Everything in it is that version's work, through its own playbooks: two generations that were served, a verification in
the ledger, and what is left of a third one whose transfer was killed. Beside ``store.tar`` are the ``locks`` of all
three and the files that the ``hub`` had. The archive is committed, so that it can be read where the history is not.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from tests.hub import Hub
from tests.hub.factory import gguf, sharded_safetensors
from tests.hub.faults import Slow

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
MIB = 1024 * 1024


def write_sources(directory: Path) -> None:
    """Write the models: two commits of a small one, and a file of four blocks that compresses to nothing."""
    for number in (1, 2):
        sharded_safetensors(directory / f"tiny-{number}", shards=2, hidden=16, seed=number)
        gguf(directory / f"tiny-{number}", hidden=32, seed=1)
    (directory / "zeros").mkdir()
    save_file({"weight": np.zeros(60 * MIB, dtype=np.uint8)}, directory / "zeros" / "model.safetensors")


def serve_sources(hub: Hub, directory: Path) -> None:
    """Let a Hub have what the store was made from."""
    hub.add_repo("acme/tiny", directory / "tiny-1").add_commit(directory / "tiny-2")
    hub.add_repo("acme/zeros", directory / "zeros")


class Earlier:
    """A version of the collection, and this machine as its host."""

    def __init__(self, commit: str, work: Path) -> None:
        checkout = work / "collections/ansible_collections/gpufleet/models"
        checkout.mkdir(parents=True)
        git = ["git", "archive", commit]
        archive = subprocess.run(git, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "--extract", "--directory", checkout], input=archive, check=True)
        self.store = work / "fixture/store"
        self.locks = work / "fixture/locks"
        self.inventory = work / "hosts.yml"
        self.environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(work / "collections"), "LC_ALL": "C.UTF-8"}
        self.locks.mkdir()

    def command(self, playbook: str, number: int, endpoint: str, *catalog: dict[str, str]) -> list[str]:
        """Return the command that runs a playbook for the lock with that number."""
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "model_store_root": str(self.store),
            "model_store_lock": str(self.locks / f"{number}.json"),
            "model_store_endpoint": endpoint,
            "model_catalog": list(catalog),
        }
        inventory = {"all": {"hosts": {"earlier": variables}}}
        self.inventory.write_text(yaml.safe_dump(inventory), encoding="utf-8")
        return ["ansible-playbook", "-i", str(self.inventory), f"gpufleet.models.{playbook}"]

    def play(self, playbook: str, number: int, endpoint: str, *catalog: dict[str, str]) -> None:
        """Run one, which must succeed."""
        command = self.command(playbook, number, endpoint, *catalog)
        subprocess.run(command, env=self.environment, check=True)

    def kill_while_it_receives(self, number: int, endpoint: str, *catalog: dict[str, str]) -> None:
        """Run site.yml and kill it, and what it started, as soon as it has a block."""
        command = self.command("site", number, endpoint, *catalog)
        with subprocess.Popen(command, env=self.environment, start_new_session=True) as process:
            try:
                while not any(len(path.read_bytes().splitlines()) > 1 for path in self.store.glob("partial/*.journal")):
                    assert process.poll() is None, "it ended before it could be killed"
                    time.sleep(0.05)
            finally:
                # The module is in a session of its own.
                subprocess.run(["fuser", "--kill", self.store / ".lock"], capture_output=True, check=False)
                os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Make the archive."""
    commit = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        sources = work / "fixture/hub"
        write_sources(sources)
        earlier = Earlier(commit, work)
        first = {"name": "tiny", "repo_id": "acme/tiny"}
        with Hub() as hub:
            hub.add_repo("acme/tiny", sources / "tiny-1")
            earlier.play("lock", 1, hub.endpoint, first)
            earlier.play("site", 1, hub.endpoint, first)
            hub.repositories.clear()
            serve_sources(hub, sources)
            renamed = {**first, "name": "tiny-renamed"}
            earlier.play("lock", 2, hub.endpoint, first, renamed)
            earlier.play("site", 2, hub.endpoint, first, renamed)
            earlier.play("verify", 2, hub.endpoint)
            zeros = {"name": "zeros", "repo_id": "acme/zeros"}
            earlier.play("lock", 3, hub.endpoint, first, zeros)
            with hub.fault(Slow(6 * MIB, path="*/model.safetensors")):
                earlier.kill_while_it_receives(3, hub.endpoint, first, zeros)
        assert (earlier.store / "current").readlink() == Path("generations/2")
        # Times of modification count, to the nanosecond.
        tar = ["tar", "--create", "--sparse", "--format=posix", "--sort=name", "--owner=root:0", "--group=root:0"]
        subprocess.run([*tar, "--file", work / "fixture/store.tar", "--directory", earlier.store, "."], check=True)
        shutil.rmtree(earlier.store)
        subprocess.run(
            [*tar, "--xz", "--file", HERE / f"{commit}.tar.xz", "--directory", work / "fixture", "."], check=True
        )


if __name__ == "__main__":
    main()
