# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stores for the tests, made by the engine itself as a transfer would, and what to measure on them."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import block_count, hash_block
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import File, Model
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial
from ansible_collections.gpufleet.models.plugins.module_utils._source import Hub
from ansible_collections.gpufleet.models.plugins.module_utils._stage import activate
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store, record_name
from ansible_collections.gpufleet.models.plugins.module_utils._work import Work

NEVER = threading.Event()  # never set: nobody cancels

NO_HUB = Hub("http://127.0.0.1:9")  # nobody listens there: whoever asks fails

# What models there are: name, then path, then content.
Tree = Mapping[str, Mapping[str, bytes]]

MINILM = {
    "config.json": b"{}\n",
    "1_Pooling/config.json": b'{"mean": true}\n',
    "vocab.txt": b"a\nb\n",
    "empty.txt": b"",
}
LLAMA = {"config.json": b"{}\n", "weights/model-1.safetensors": b"1" * 70_000, "weights/model-2.safetensors": b"2" * 9}
SMALL: Tree = {"minilm": MINILM, "llama": LLAMA}


def work_on(store: Store) -> Work:
    """Return a piece of work, as the modules make it, that nobody is told of."""
    return Work(store, "test", True, None, NEVER, hidden=True)


def sha256_of(content: bytes) -> str:
    """Return a content's SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def model_of(name: str, files: Mapping[str, bytes], **fields: Any) -> Model:
    """Return the model with these files; its commit follows from them unless it is given."""
    found = tuple(File(path, len(content), sha256_of(content)) for path, content in files.items())
    commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    return Model(
        **{"name": name, "repo_id": f"acme/{name}", "revision": "main", "commit": commit, **fields}, files=found
    )


def models_of(tree: Tree) -> tuple[Model, ...]:
    """Return the models of a tree."""
    return tuple(model_of(name, files) for name, files in tree.items())


def put_blob(store: Store, content: bytes) -> str:
    """Add a blob as a complete transfer does; return its SHA-256."""
    sha256 = sha256_of(content)
    with store.partials(create=True) as partials:
        partial = Partial(partials, sha256, len(content))
        try:
            partial.write(0, memoryview(content))
            digests = [
                hash_block(partial.descriptor, index, len(content)) for index in range(block_count(len(content)))
            ]
            store.adopt(partial, tuple(map(str, digests)))
        finally:
            partial.close()
    return sha256


def stage(store: Store, tree: Tree) -> int:
    """Make a generation with its blobs; return its number."""
    for content in {content for files in tree.values() for content in files.values()}:
        if store.blob_status(sha256_of(content)) is None:
            put_blob(store, content)
    return Generations(store).build(models_of(tree))


def serve(store: Store, tree: Tree) -> int:
    """Make a generation and serve it; return its number."""
    number = stage(store, tree)
    activate(store, number)
    return number


def blob_path(store: Store, content: bytes) -> Path:
    """Return where the blob with that content lies."""
    sha256 = sha256_of(content)
    return Path(store.path, "blobs", sha256[:2], sha256)


def record_path(store: Store, content: bytes) -> Path:
    """Return where its record lies."""
    return blob_path(store, content).with_name(record_name(sha256_of(content)))


def served_path(store: Store, path: str, generation: int = 1) -> Path:
    """Return where a file of a generation lies."""
    return Path(store.path, "generations", str(generation), path)


def overwrite(path: Path, position: int, content: bytes) -> None:
    """Write over bytes of a file in place and give it its former times back, as bit rot does."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(content)
    path.chmod(stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(path: Path, position: int) -> None:
    """Flip one bit of the byte at a position, in place; the file's times stay."""
    with path.open("rb") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
    overwrite(path, position, bytes([byte ^ 1]))


def resize(path: Path, size: int) -> None:
    """Cut a file short or extend it with zero bytes, in place."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o644)
    os.truncate(path, size)
    path.chmod(mode)


def entries(root: Path) -> dict[str, os.stat_result]:
    """Return what ``lstat`` says of everything at and below a path."""
    found = {".": root.lstat()}
    for parent, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(parent, name)
            found[str(path.relative_to(root))] = path.lstat()
    return found


def listing(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return everything at and below a path, so that two of them are equal only if nothing was written in between."""
    found = {}
    for name, status in entries(root).items():
        path = root / name
        content: str | bytes | None = None
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            assert status.st_size < 100 << 20, f"{path} is too large to be compared"
            content = path.read_bytes()
        found[name] = (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
        found[name] += (status.st_mtime_ns, status.st_ctime_ns, content)
    return found


def without_work(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return all that there is in a store, but for the directory in which work is told of while it goes on."""
    return {name: values for name, values in listing(root).items() if name not in (".", "work")}


def allocated_bytes(root: Path) -> int:
    """Return what everything at and below a path takes on disk, each inode once; without what every writer writes."""
    inodes = {
        (status.st_dev, status.st_ino): status.st_blocks * 512
        for name, status in entries(root).items()
        if not name.endswith(("ledger.jsonl", ".lock"))
    }
    return sum(inodes.values())
