# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carry out the plan of a conversion: convert models, keep the files as blobs, make a generation with them."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import _convert_worker
from ._blocks import hash_file
from ._convert_plan import ConversionPlan, Wish, make_plan
from ._convert_spec import DIRECTORY, MODELS, SUFFIXES
from ._derived import Derived
from ._directory import Directory
from ._errors import ContentError, PythonError, StoreError
from ._generation import Generations
from ._inspect import inspect
from ._integrity import check_blobs
from ._ledger import Ledger
from ._lockfile import File, Model
from ._manifest import Manifest
from ._plan import no_space
from ._process import Ended, Limit, describe_end, run_program
from ._smoke_judge import min_cosine, smallest_cosine
from ._smoke_spec import Smoke
from ._store import Store
from ._worker_process import command, interpreter_of


@dataclass(frozen=True)
class Outcome:
    """What came of a plan: the generation that has it, and what it has."""

    generation: int
    derived: tuple[Derived, ...]


def look(store: Store, base: Manifest, wishes: Iterable[Wish], limit: Limit) -> ConversionPlan:
    """Look at the store and decide what to do.

    What the ledger says to be damaged is hashed, and what a new generation would link to; nothing when all is there.

    :raises ContentError: When the models themselves are damaged.
    """
    generations = Generations(store)
    manifests = generations.manifests()
    damaged = _damaged(store, manifests.values(), limit)
    whole = []
    for number, manifest in manifests.items():
        problems = inspect(store, manifest).problems
        own = [problem for problem in problems if problem.file not in manifest.derived_files(problem.model)]
        if number == base.generation and own:
            raise ContentError(
                f"{own[0].file.path} of {own[0].model.name}: {own[0].detail}; repair generation {number} with "
                "model_verify, then convert it"
            )
        if not problems:
            whole.append(number)
    plan = make_plan(base, wishes, manifests, whole, damaged)
    bad = _damaged_of(store, [file for derived in plan.take for file in derived.files], limit)
    return make_plan(base, wishes, manifests, whole, damaged | bad) if bad else plan


def carry_out(plan: ConversionPlan, store: Store, models: tuple[Model, ...], venv: str, limit: Limit) -> Outcome:
    """Do what a plan says. The caller is the store's writer.

    :param models: Those of the generation, as the lock has them now.
    :param venv: The environment that converts.
    :raises ModelsError: When it cannot; nothing is left of it then, and what is served was left as it was.
    """
    generations = Generations(store)
    if plan.use is not None:
        return Outcome(plan.use, generations.manifest(plan.use).derived)
    _require_sources(store, plan.make, limit)
    _require_space(store, plan.make)
    made = [_convert(store, wish, venv, limit) for wish in plan.make]
    derived = tuple(sorted((*plan.take, *made), key=lambda derived: derived.model))
    number = generations.build(models, derived)
    verified = [
        {"event": "verified", "sha256": file.sha256, "bytes": file.size} for found in derived for file in found.files
    ]
    Ledger(store.root).append([*verified, {"event": "staged", "generation": number}])
    return Outcome(number, derived)


def _damaged(store: Store, manifests: Iterable[Manifest], limit: Limit) -> set[str]:
    """Return the derived blobs that the ledger doubts, and rightly so."""
    doubtful = Ledger(store.root).doubtful()
    files = [file for manifest in manifests for derived in manifest.derived for file in derived.files]
    return _damaged_of(store, [file for file in files if file.sha256 in doubtful], limit)


def _damaged_of(store: Store, files: Iterable[File], limit: Limit) -> set[str]:
    sizes = {file.sha256: file.size for file in files}
    found = check_blobs(store, sizes.items(), limit.cancelled, by_blocks=False)
    return {finding.sha256 for finding in found if finding.damage}


def _require_sources(store: Store, wishes: Iterable[Wish], limit: Limit) -> None:
    """Require that what is converted is what the lock names: damage would stay in what is made of it for ever."""
    for wish in wishes:
        damaged = _damaged_of(store, wish.model.files, limit)
        for file in wish.model.files:
            if file.sha256 in damaged:
                raise ContentError(
                    f"{file.path} of {wish.model.name} is not what the lock names; repair it with model_verify, then "
                    "convert it"
                )


def _require_space(store: Store, wishes: Iterable[Wish]) -> None:
    # One byte for each weight, of two or four; the description of the layers is small.
    problem = no_space(sum(wish.source_bytes // 2 for wish in wishes), *store.free_bytes())
    if problem:
        raise StoreError(f"{store.path}: {problem}")


def _convert(store: Store, wish: Wish, venv: str, limit: Limit) -> Derived:
    """Convert a model and keep what came of it."""
    name, task = wish.model.name, wish.subject.task
    with Generations(store).workplace() as place:
        job = {
            "task": task,
            "directory": wish.subject.directory,
            "weights": wish.subject.weights,
            "inputs": Smoke().inputs_for(task),
            "output": place.descriptor,
        }
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        line = command(interpreter_of(venv), _convert_worker)
        ended = run_program(line, environ, "/", limit, json.dumps(job), inherit=(place.descriptor,))
        cosine = compare(name, _converted(name, ended, store.path))
        files = [f"{part}{suffix}" for part in MODELS[task] for suffix in SUFFIXES]
        kept = tuple(_keep(store, place, file, limit) for file in files)
    return Derived(name, wish.key, kept, wish.packages, round(cosine, 6))


def compare(name: str, found: Mapping[str, Any]) -> float:
    """Return the smallest cosine of a conversion's outputs to those of the model itself.

    :param found: What the process told: ``expected``, ``outputs`` and their ``dtype``.
    :raises ContentError: When it is too small, or there is none.
    """
    for what, outputs in (("its own outputs", found["expected"]), ("its outputs, converted,", found["outputs"])):
        if not all(math.isfinite(value) for output in outputs for value in output):
            raise ContentError(f"{name}: {what} are not finite numbers alone; do not convert it")
    least = min_cosine(found["dtype"])
    cosine = smallest_cosine(found["outputs"], found["expected"])
    if not cosine >= least:
        raise ContentError(
            f"{name}: converted, its outputs have a cosine of {cosine:.6f} to those that it has itself, "
            f"expected at least {least:g}; do not convert it"
        )
    return cosine


def _converted(name: str, ended: Ended, path: str) -> dict[str, Any]:
    """Return what the process told.

    :raises ModelsError: When it failed.
    """
    try:
        event: dict[str, Any] = json.loads(ended.output)
    except ValueError:
        how = describe_end(ended.status)
        said = " ".join(ended.errors.split())[-300:]
        raise PythonError(f"{name}: the process that converts it {how} ({said or 'it said nothing'})") from None
    if "converted" in event:
        converted: dict[str, Any] = event["converted"]
        return converted
    failed = event["failed"]
    if failed["reason"] == "disk_full":
        raise StoreError(f"{path}: {os.strerror(errno.ENOSPC)} while {name} was converted; free some space")
    raise PythonError(f"{name}: it could not be converted: {failed['error']}")


def _keep(store: Store, place: Directory, name: str, limit: Limit) -> File:
    """Make a blob of a file."""
    descriptor = place.open(name, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        sha256, digests = hash_file(descriptor, size, limit.cancelled, blocks=True)
        if sha256 is None:
            raise ContentError(f"{name} became shorter while it was hashed; convert again")
        file = File(f"{DIRECTORY}/{name}", size, sha256)
        # Made before, of something else: what generations link to already stays.
        if store.blob_status(sha256) is None or _damaged_of(store, [file], limit):
            store.root.adopt(descriptor)
            store.take(place, name, descriptor, sha256, digests)
        return file
    finally:
        os.close(descriptor)
