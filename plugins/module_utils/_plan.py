# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan: from what a lock names and what is on disk to what has to be done. It decides; it does nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ._blocks import bytes_in
from ._errors import StoreError
from ._generation import Generations
from ._inspect import inspect
from ._lockfile import Model, lock_digest
from ._manifest import Manifest
from ._partial import read_journal
from ._provide import Need
from ._store import Store

_RESERVE_SHARE = 0.02  # of the filesystem stays free
_RESERVE_LIMIT = 1 << 30  # bytes; enough on a large one


@dataclass(frozen=True)
class Kept:
    """What a partial file has of a blob: bytes that need not come over the network, and bytes that it takes on disk."""

    received_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """What is on disk, as far as it matters for some models.

    ``served`` are the models of the current generation. ``usable`` holds the generations that have exactly the wanted
    models and pass a quick look. ``blobs`` holds the wanted blobs that exist, ``partials`` what there is of others.
    """

    current: int | None
    served: tuple[Model, ...]
    usable: tuple[int, ...]
    blobs: frozenset[str]
    partials: dict[str, Kept]
    free_bytes: int
    filesystem_bytes: int


@dataclass(frozen=True)
class Change:
    """What becomes of one model: ``added``, ``updated``, ``removed`` or ``unchanged``; with its commits."""

    name: str
    before: str | None
    after: str | None
    action: str


@dataclass(frozen=True)
class Plan:
    """What to do. ``use`` is a generation that exists already; without one, a new one is staged.

    ``fetch`` are the blobs to receive, ``reuse`` those that are there and will be hashed again.
    """

    models: tuple[Model, ...]
    previous: int | None
    use: int | None
    activate: bool
    fetch: tuple[Need, ...]
    reuse: tuple[Need, ...]
    download_bytes: int
    changes: tuple[Change, ...]
    no_space: str | None

    @property
    def stage(self) -> bool:
        """Whether a generation is made."""
        return self.use is None

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.stage or self.activate

    def require_space(self, path: str) -> None:
        """Raise :class:`StoreError` when the disk of the store at ``path`` is too small for what is to be received."""
        if self.no_space:
            raise StoreError(f"{path}: {self.no_space}")

    @property
    def reused_bytes(self) -> int:
        """The size of all blobs that are there already."""
        return sum(need.file.size for need in self.reuse)


def take_snapshot(path: str, store: Store | None, models: tuple[Model, ...]) -> Snapshot:
    """Look at the disk, without reading any model's content.

    :param path: Where the store is, or will be.
    :param store: None where there is none yet.
    """
    if store is None:
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        disk = os.statvfs(path)
        return Snapshot(
            None,
            (),
            (),
            frozenset(),
            {},
            disk.f_bavail * disk.f_frsize,
            disk.f_blocks * disk.f_frsize,
        )
    generations = Generations(store)
    current = generations.current()
    manifests = generations.manifests()
    served = generations.served_models()
    digest = lock_digest(models)
    usable = tuple(
        number
        for number, manifest in manifests.items()
        if manifest.digest == digest and not inspect(store, manifest).problems
    )
    free_bytes, filesystem_bytes = store.free_bytes()
    if current in usable:
        return Snapshot(current, served, usable, frozenset(), {}, free_bytes, filesystem_bytes)
    files = {file.sha256: file for model in models for file in model.files}
    blobs = frozenset(sha256 for sha256 in files if store.blob_status(sha256) is not None)
    partials = {}
    try:
        with store.partials() as directory:
            for sha256, file in files.items():
                status = directory.stat(sha256)
                if sha256 not in blobs and status is not None:
                    blocks = read_journal(directory, sha256, file.size)
                    partials[sha256] = Kept(bytes_in(blocks, file.size), status.st_blocks * 512)
    except FileNotFoundError:
        pass
    return Snapshot(current, served, usable, blobs, partials, free_bytes, filesystem_bytes)


def make_plan(models: tuple[Model, ...], activate: bool, snapshot: Snapshot) -> Plan:
    """Decide what to do so that a generation with exactly these models exists and, if asked for, is served.

    An earlier generation with the same models is not taken: numbers only grow, so that "the one before" is always the
    one with the lower number.
    """
    current = snapshot.current
    candidates = [number for number in snapshot.usable if current is None or number >= current]
    use = current if current in candidates else max(candidates, default=None)
    fetch: dict[str, Need] = {}
    reuse: dict[str, Need] = {}
    if use is None:
        for model in models:
            for file in model.files:
                target = reuse if file.sha256 in snapshot.blobs else fetch
                target.setdefault(file.sha256, Need(model, file))
    nothing = Kept(0, 0)
    kept = {sha256: snapshot.partials.get(sha256, nothing) for sha256 in fetch}
    download_bytes = sum(need.file.size - kept[sha256].received_bytes for sha256, need in fetch.items())
    disk_bytes = sum(max(0, need.file.size - kept[sha256].disk_bytes) for sha256, need in fetch.items())
    return Plan(
        models=models,
        previous=current,
        use=use,
        activate=activate and (use is None or use != current),
        fetch=tuple(fetch.values()),
        reuse=tuple(reuse.values()),
        download_bytes=download_bytes,
        changes=_changes(snapshot.served, models),
        no_space=no_space(disk_bytes, snapshot.free_bytes, snapshot.filesystem_bytes),
    )


def plan_switch(manifest: Manifest, current: int | None, served: tuple[Model, ...]) -> Plan:
    """Decide what to do so that an existing generation is served."""
    return Plan(
        models=manifest.models,
        previous=current,
        use=manifest.generation,
        activate=manifest.generation != current,
        fetch=(),
        reuse=(),
        download_bytes=0,
        changes=_changes(served, manifest.models),
        no_space=None,
    )


def _changes(before: tuple[Model, ...], after: tuple[Model, ...]) -> tuple[Change, ...]:
    old = {model.name: model for model in before}
    new = {model.name: model for model in after}
    changes = []
    for name in sorted({*old, *new}):
        was, will = old.get(name), new.get(name)
        if was is None or will is None:
            action = "added" if was is None else "removed"
        else:
            action = "unchanged" if lock_digest([was]) == lock_digest([will]) else "updated"
        changes.append(Change(name, was.commit if was else None, will.commit if will else None, action))
    return tuple(changes)


def no_space(disk_bytes: int, free_bytes: int, filesystem_bytes: int) -> str | None:
    """Return a sentence when the disk is too small for what is still to be written, else None. All are bytes."""
    if not disk_bytes:
        return None
    reserve = min(_RESERVE_LIMIT, int(filesystem_bytes * _RESERVE_SHARE))
    if disk_bytes + reserve <= free_bytes:
        return None
    return (
        f"the disk is too small: {mib(disk_bytes)} are still to be written and {mib(reserve)} stay in reserve, "
        f"{mib(free_bytes)} are free; free some space, or prune the store, "
        "with partial_max_age 0 also of what interrupted transfers left"
    )


def mib(size: int) -> str:
    """Return a size for people."""
    return f"{size / (1 << 20):,.1f} MiB"


def summary(plan: Plan) -> str:
    """Return the plan as one sentence."""
    if plan.use is not None and not plan.activate:
        return f"generation {plan.use} has these models already"
    what = [] if plan.use is None else [f"serve generation {plan.use}"]
    if plan.use is None:
        what.append("stage and serve a new generation" if plan.activate else "stage a new generation")
        what.append(f"receive {mib(plan.download_bytes)} in {len(plan.fetch)} files")
        what.append(f"reuse {mib(plan.reused_bytes)} in {len(plan.reuse)} files")
    return ", ".join(what)


def describe_changes(plan: Plan) -> list[dict[str, str | None]]:
    """Return what becomes of each model as modules return it: ``name``, ``commit`` afterwards, ``action``."""
    return [{"name": change.name, "commit": change.after, "action": change.action} for change in plan.changes]


def diff_models(plan: Plan) -> dict[str, str]:
    """Return the models before and after as Ansible's diff shows them."""
    before = "".join(f"{change.name} {change.before}\n" for change in plan.changes if change.before)
    after = "".join(f"{change.name} {change.after}\n" for change in plan.changes if change.after)
    return {"before_header": "served", "after_header": "wanted", "before": before, "after": after}
