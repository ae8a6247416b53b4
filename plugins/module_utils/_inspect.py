# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The quick look at a generation: what ``lstat`` can tell, without reading a byte of any model."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from ._generation import Generations
from ._lockfile import File, Model
from ._manifest import MANIFEST, Manifest
from ._store import BLOB_MODE, Store

MISSING, REPLACED, LOST, SIZE, TIME, MODE = "missing", "replaced", "lost", "size", "time", "mode"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file of a generation.

    ``kind`` is ``missing`` (not in the generation), ``replaced`` (there, but not as its blob's hard link), ``lost``
    (the blob itself is gone), or ``size``, ``time`` or ``mode`` when the blob's is not what it was when proven.
    """

    model: Model
    file: File
    kind: str
    detail: str


@dataclass(frozen=True)
class Inspection:
    """Problems, and the paths of files that the manifest does not name."""

    problems: tuple[Problem, ...]
    unexpected: tuple[str, ...]


def inspect(store: Store, manifest: Manifest) -> Inspection:
    """Compare a generation's tree with its manifest and with the blobs.

    :raises FileNotFoundError: When there is no such generation.
    """
    with Generations(store).directory() as generations, generations.subdirectory(str(manifest.generation)) as tree:
        found = {path: status for path, status in tree.walk() if not stat.S_ISDIR(status.st_mode)}
    problems = []
    for model, file in manifest.files():
        problem = _problem(store, file, found.pop(f"{model.name}/{file.path}", None))
        if problem:
            problems.append(Problem(model, file, *problem))
    found.pop(MANIFEST, None)
    # Such a name may be anything, and has to be told as text.
    unexpected = sorted(os.fsencode(path).decode("utf-8", "backslashreplace") for path in found)
    return Inspection(tuple(problems), tuple(unexpected))


def _problem(store: Store, file: File, served: os.stat_result | None) -> tuple[str, str] | None:
    blob = store.blob_status(file.sha256)
    if blob is None:
        return LOST, "its blob is lost"
    if served is None:
        return MISSING, "it is missing from the generation"
    if (served.st_dev, served.st_ino) != (blob.st_dev, blob.st_ino):
        return REPLACED, "it was replaced by something that is not its blob"
    if blob.st_size != file.size:
        return SIZE, f"expected {file.size} bytes, found {blob.st_size}"
    if stat.S_IMODE(blob.st_mode) != BLOB_MODE:
        return MODE, f"expected mode {BLOB_MODE:04o}, found {stat.S_IMODE(blob.st_mode):04o}"
    record = store.read_record(file.sha256)
    if record is not None and record.mtime_ns != blob.st_mtime_ns:
        return TIME, "it was written to since it was received"
    return None
