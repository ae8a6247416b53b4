# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Hub that the test hosts receive models from: `python -m tests.hosts.models ADDRESS PORT DIRECTORY`.

The real all-MiniLM-L6-v2, and two that are files alone. The same bytes always have the same commits, so that a Hub that
a test starts for itself goes on with the history of this one.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.demo import minilm_files
from tests.hub import Hub
from tests.hub.factory import gguf, sharded_safetensors

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TINY = "acme/tiny"
BIG = "acme/big"
MIB = 1024 * 1024


def add_models(hub: Hub, directory: Path) -> None:
    """Let a Hub have the first commit of each model."""
    hub.add_repo(MINILM, minilm_files())
    hub.add_repo(TINY, tiny(directory, 1))
    hub.add_repo(BIG, big(directory, 1))


def tiny(directory: Path, number: int) -> Path:
    """Return the small model's files as of its commit of that number. They are made once."""
    made = directory / f"tiny-{number}"
    if not made.exists():
        unfinished = _emptied(directory / f".tiny-{number}")
        sharded_safetensors(unfinished, seed=number)
        gguf(unfinished, seed=number)
        unfinished.rename(made)
    return made


def big(directory: Path, number: int) -> Path:
    """Return the file of four blocks of 16 MiB, the last one not full, as of its commit of that number."""
    made = directory / f"big-{number}"
    if not made.exists():
        unfinished = _emptied(directory / f".big-{number}")
        words = np.random.Generator(np.random.SFC64(number)).integers(0, 2**64, size=60 * MIB // 8, dtype=np.uint64)
        save_file({"weight": words}, unfinished / "weights.safetensors")
        unfinished.rename(made)
    return made


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    # Blocked before any thread starts, as threads inherit it: the signal waits for sigwait.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    address, port, directory = sys.argv[1:]
    with Hub(address=address, port=int(port)) as hub:
        add_models(hub, Path(directory))
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
