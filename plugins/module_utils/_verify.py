# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verify a generation against its manifest, and repair it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable

from ._blocks import hash_file
from ._errors import Cancelled, ModelsError, StoreError
from ._generation import Generations
from ._inspect import LOST, MISSING, REPLACED, TIME, Inspection, inspect
from ._integrity import Finding, check_blobs
from ._ledger import Ledger
from ._lockfile import File, Model
from ._manifest import Manifest
from ._partial import remove_orphans
from ._progress import Hashing, Progress
from ._provide import Need, provide, reseal
from ._source import Hub
from ._store import BLOB_MODE, Store
from ._transfer import Limits
from ._work import Work


@dataclass(frozen=True)
class Defect:
    """One file of a generation that is not as it must be.

    ``missing``: there is nothing of it to read. ``derived``: it was made on this host, so it cannot be fetched.
    """

    model: Model
    file: File
    missing: bool
    derived: bool
    reason: str
    blocks: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the defect as modules report it."""
        return {
            "model": self.model.name,
            "path": self.file.path,
            "sha256": self.file.sha256,
            "derived": self.derived,
            "reason": self.reason,
            "blocks": None if self.blocks is None else list(self.blocks),
        }


@dataclass(frozen=True)
class Examination:
    """What looking at a generation showed. ``findings`` has an entry for each blob that was hashed.

    ``obstacle``: after a repair, why something could not be fetched.
    """

    manifest: Manifest
    inspection: Inspection
    findings: dict[str, Finding]
    obstacle: str | None = None

    def defects(self) -> list[Defect]:
        """Return the files that are not as they must be, in the manifest's order."""
        problems = {(problem.model.name, problem.file.path): problem for problem in self.inspection.problems}
        defects = []
        for model, file in self.manifest.files():
            finding = self.findings.get(file.sha256)
            problem = problems.get((model.name, file.path))
            derived = file in self.manifest.derived_files(model)
            if finding is not None and finding.damage:
                defects.append(Defect(model, file, finding.lost, derived, finding.damage, finding.blocks))
            # The time of a blob says nothing once its content was hashed.
            elif problem is not None and not (finding is not None and problem.kind == TIME):
                lost = problem.kind in (MISSING, LOST)
                defects.append(Defect(model, file, lost, derived, problem.detail))
        return defects

    def verified(self, hashed_only: bool) -> list[str]:
        """Return the paths, below the generation, of the files that are as they must be."""
        defective = {(defect.model.name, defect.file.path) for defect in self.defects()}
        return [
            f"{model.name}/{file.path}"
            for model, file in self.manifest.files()
            if (model.name, file.path) not in defective and (not hashed_only or file.sha256 in self.findings)
        ]

    def hashed_bytes(self) -> int:
        """Return the bytes that were hashed."""
        return sum(finding.hashed_bytes for finding in self.findings.values())


def examine(
    store: Store,
    manifest: Manifest,
    full: bool,
    budget_seconds: float | None,
    cancelled: threading.Event,
    report: Callable[[Progress], None] = lambda _progress: None,
    note: Callable[[Finding], None] = lambda _finding: None,
) -> Examination:
    """Look at a generation and, if ``full``, hash its blobs, the longest unverified first.

    Needs no network, and nothing but the right to read.

    :param budget_seconds: Begin to hash no further blob after that time.
    :param report: Called with the progress of hashing.
    :param note: Is given each finding as it comes, for who does not want to lose what a kill leaves of the others.
    """
    inspection = inspect(store, manifest)
    findings: dict[str, Finding] = {}
    if full:
        sizes = {file.sha256: file.size for _model, file in manifest.files()}
        last = Ledger(store.root).last_verified()
        order = sorted(sizes.items(), key=lambda item: last.get(item[0], (-1, ""))[0])
        hashing = _hashing(manifest, sizes, report)
        for finding in check_blobs(store, order, cancelled, budget_seconds, report=hashing):
            findings[finding.sha256] = finding
            note(finding)
    return Examination(manifest, inspection, findings)


def _hashing(manifest: Manifest, blobs: Iterable[str], report: Callable[[Progress], None]) -> Hashing:
    files = {file.sha256: (file.size, f"{file.path} of {model.name}") for model, file in manifest.files()}
    return Hashing(report, {sha256: files[sha256] for sha256 in blobs})


def repair(
    store: Store, examination: Examination, hub: Hub, limits: Limits, cancelled: threading.Event, work: Work
) -> tuple[Examination, int]:
    """Mend what an examination found, and examine that again. The caller is the store's writer.

    Good content is never touched: damaged blocks are overwritten in place, lost blobs are fetched, files that are not
    their blob are linked to it again. What was made on this host cannot be fetched and stays as it is. A model that
    cannot be fetched keeps no other one from being mended.

    :param work: Whom to tell how far it is.
    :returns: The state afterwards, and the bytes that came over the network.
    :raises Cancelled: When ``cancelled`` is set meanwhile.
    """
    manifest = examination.manifest
    files = {file.sha256: (model, file) for model in manifest.models for file in model.files}
    suspects = {defect.file.sha256: defect.file.size for defect in examination.defects()}
    findings = dict(examination.findings)
    unknown = [(sha256, size) for sha256, size in suspects.items() if sha256 not in findings]
    hashing = _hashing(manifest, dict(unknown), work.begin("hash"))
    findings.update({finding.sha256: finding for finding in check_blobs(store, unknown, cancelled, report=hashing)})
    with store.partials(create=True) as partials:
        remove_orphans(partials, {finding.sha256 for finding in findings.values() if not finding.damage})

    needs = []
    for sha256, finding in findings.items():
        if finding.lost and _recover(store, manifest, sha256, cancelled):
            continue
        if finding.damage and sha256 in files:
            needs.append(Need(*files[sha256], None if finding.lost else finding))
        elif finding.record is not None and not finding.damage:
            reseal(store, finding.record)
    downloaded, obstacle = 0, None
    # What takes no network comes first, then one model after the other.
    groups = [need.model.name if need.wanted_bytes else "" for need in needs]
    for group in sorted(set(groups)):
        wanted = [need for need, its_group in zip(needs, groups) if its_group == group]
        try:
            downloaded += provide(store, wanted, hub, limits, work.begin("receive"), cancelled)
        except Cancelled:
            raise
        except ModelsError as error:
            obstacle = obstacle or str(error)

    hashing = _hashing(manifest, suspects, work.begin("hash"))
    again = check_blobs(store, suspects.items(), cancelled, report=hashing)
    findings.update({finding.sha256: finding for finding in again})
    for problem in inspect(store, manifest).problems:
        if problem.kind in (MISSING, REPLACED) and not findings[problem.file.sha256].damage:
            Generations(store).relink(manifest.generation, problem.model, problem.file)
    return Examination(manifest, inspect(store, manifest), findings, obstacle), downloaded


def _recover(store: Store, manifest: Manifest, sha256: str, cancelled: threading.Event) -> bool:
    """Take a lost blob back from a file of the generation that still has its content; return whether there is one."""
    generations = Generations(store)
    for model, file in manifest.files():
        if file.sha256 != sha256:
            continue
        parent = generations.parent_of(manifest.generation, model, file)
        # Whatever lies there instead is replaced by a link to the blob, once there is one.
        with contextlib.suppress(OSError, StoreError), parent as place:
            directory, name = place
            descriptor = directory.open(name, os.O_RDONLY)
            try:
                whole = os.fstat(descriptor).st_size == file.size
                if whole and hash_file(descriptor, file.size, cancelled)[0] == sha256:
                    os.fchmod(descriptor, BLOB_MODE)
                    with store.blob_directory(sha256, create=True) as blobs:
                        directory.link(name, blobs, sha256)
                    return True
            finally:
                os.close(descriptor)
    return False


def repaired(found: Examination, after: Examination) -> list[Defect]:
    """Return what was wrong before a repair and is not any more."""
    left = {(defect.model.name, defect.file.path) for defect in after.defects()}
    return [defect for defect in found.defects() if (defect.model.name, defect.file.path) not in left]


def describe_defects(manifest: Manifest, defects: list[Defect], advice: str) -> str:
    """Put what is wrong with a generation into one sentence.

    :param defects: At least one.
    :param advice: What to do about a file that can be fetched.
    """
    first = defects[0]
    if first.derived:
        advice = "it was made on this host and cannot be fetched: run the playbook site, which converts the model again"
    return (
        f"{len(defects)} of {sum(1 for _file in manifest.files())} files of generation {manifest.generation} are not "
        f"as they must be; the first: {first.file.path} of {first.model.name}: {first.reason}; {advice}"
    )


def record(store: Store, examination: Examination, mended: list[Defect]) -> None:
    """Write what was found into the ledger, and block digests where there were none to be trusted."""
    record_findings(store, examination.findings.values())
    Ledger(store.root).append({"event": "repaired", **defect.to_json()} for defect in mended)


def record_findings(store: Store, findings: Iterable[Finding]) -> None:
    """Write what hashing showed into the ledger, and block digests where there were none to be trusted."""
    events: list[dict[str, Any]] = []
    for finding in findings:
        if finding.damage:
            blocks = None if finding.blocks is None else list(finding.blocks)
            events.append({"event": "corrupt", "sha256": finding.sha256, "blocks": blocks})
            continue
        if finding.record is not None and store.read_record(finding.sha256) != finding.record:
            store.write_record(finding.record)
        events.append({"event": "verified", "sha256": finding.sha256, "bytes": finding.size})
    Ledger(store.root).append(events)


def coverage(manifest: Manifest, last: dict[str, tuple[int, str]]) -> dict[str, Any]:
    """Return how well the ledger covers a generation.

    :param last: What the ledger says of when blobs were verified.

    ``oldest_verification`` is the time of the file that was verified longest ago, or None while some never were since
    the ledger began; ``never_verified`` counts those.
    """
    blobs = {file.sha256 for _model, file in manifest.files()}
    times = [last[sha256] for sha256 in blobs if sha256 in last]
    never = len(blobs) - len(times)
    return {"never_verified": never, "oldest_verification": None if never or not times else min(times)[1]}
