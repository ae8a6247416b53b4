# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carry out a plan: stage a generation, serve it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from ._errors import StoreError
from ._generation import Generations
from ._integrity import check_blobs
from ._ledger import Ledger
from ._plan import Plan
from ._progress import Hashing
from ._provide import Need, provide, reseal
from ._source import Hub
from ._store import Store
from ._transfer import Limits
from ._work import Work


@dataclass(frozen=True)
class Outcome:
    """What came of a plan: the generation with the wanted models, and the bytes that came over the network."""

    generation: int
    downloaded_bytes: int = 0


def carry_out(plan: Plan, store: Store, hub: Hub, limits: Limits, cancelled: threading.Event, work: Work) -> Outcome:
    """Do what a plan says. The caller is the store's writer.

    :param work: Whom to tell how far it is.

    :raises ModelsError: When it cannot; what is served was left as it was.
    :raises OSError: When the disk fails; the same holds.
    """
    downloaded = 0
    generation = plan.use
    if generation is None:
        downloaded = _provide_all(plan, store, hub, limits, cancelled, work)
        generation = Generations(store).build(plan.models)
        Ledger(store.root).append([{"event": "staged", "generation": generation}])
    if plan.activate:
        activate(store, generation)
    return Outcome(generation, downloaded)


def activate(store: Store, generation: int) -> None:
    """Serve a generation. The caller is the store's writer."""
    Generations(store).activate(generation)
    # It is served now, whether or not that can be written down.
    with contextlib.suppress(OSError, StoreError):
        Ledger(store.root).append([{"event": "activated", "generation": generation}])


def _provide_all(plan: Plan, store: Store, hub: Hub, limits: Limits, cancelled: threading.Event, work: Work) -> int:
    """Hash what is there, fetch what is not or is damaged; return the bytes that came over the network."""
    needs = [*plan.fetch, *_damaged(store, plan.reuse, cancelled, work)]
    downloaded = provide(store, needs, hub, limits, work.begin("receive"), cancelled)
    # Blocks were mended by the blob's record, which may have been wrong as well: then nothing of it is believed.
    mended = [need for need in needs if need.patch is not None]
    still = [Need(need.model, need.file) for need in _damaged(store, mended, cancelled, work)]
    downloaded += provide(store, still, hub, limits, work.begin("receive"), cancelled)
    files = {file.sha256: file for model in plan.models for file in model.files}
    Ledger(store.root).append(
        {"event": "verified", "sha256": file.sha256, "bytes": file.size} for file in files.values()
    )
    return downloaded


def _damaged(store: Store, needs: Iterable[Need], cancelled: threading.Event, work: Work) -> list[Need]:
    """Return the blobs that are not what the lock names, by their own SHA-256, with what is wrong with each."""
    by_digest = {need.file.sha256: need for need in needs}
    blobs = sorted(((need.file.sha256, need.file.size) for need in by_digest.values()), key=lambda blob: -blob[1])
    damaged = []
    labels = {sha256: (need.file.size, need.label) for sha256, need in by_digest.items()}
    report = Hashing(work.begin("hash"), labels)
    for finding in check_blobs(store, blobs, cancelled, by_blocks=False, report=report):
        need = by_digest[finding.sha256]
        if finding.damage:
            damaged.append(Need(need.model, need.file, finding))
        elif finding.record is not None:
            reseal(store, finding.record)
    return damaged
