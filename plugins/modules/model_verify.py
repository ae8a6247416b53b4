#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_verify
short_description: Verify and repair the AI models that a host serves
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Compares a generation with what was proven when it was received, names every file and block that differs, and can
    fetch the damaged blocks again. Fails when anything is left that is not as it must be.
  - Needs no network unless it repairs.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
  - gpufleet.models.hub
  - gpufleet.models.transfer
  - gpufleet.models.writer
  - gpufleet.models.work
attributes:
  check_mode:
    support: full
    details: Verifies, but neither repairs nor writes to the ledger.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  generation:
    description:
      - The number of the generation to verify. By default the one that is served.
    type: int
  mode:
    description:
      - V(full) hashes every byte, on all cores.
      - V(quick) compares existence, size, mode and time of modification, and reads no content.
    type: str
    choices: [full, quick]
    default: full
  budget_seconds:
    description:
      - Hash for that long, beginning with what was verified longest ago. A file that was begun is finished. By default
        everything is hashed.
    type: float
  repair:
    description:
      - Fetch damaged blocks and lost files again, and link files again that are no longer their blob.
      - A block is fetched, proven, and then written over the damaged one. Good content is never touched. Files that do
        not belong to the generation are reported and left alone.
    type: bool
    default: false
seealso:
  - module: gpufleet.models.model_generation
"""

EXAMPLES = r"""
- name: Prove every byte of what is served
  gpufleet.models.model_verify:
    root: /opt/models

- name: Spend ten minutes on what was verified longest ago, and mend what is damaged
  gpufleet.models.model_verify:
    root: /opt/models
    budget_seconds: 600
    repair: true
"""

RETURN = r"""
generation:
  description: The generation that was verified.
  returned: when there is one
  type: int
  sample: 7
models:
  description: The models of the generation after this run, as M(gpufleet.models.model_store_info) returns them.
  returned: when a generation was verified
  type: list
  elements: dict
verified:
  description: The files that are as they must be, below the generation's directory.
  returned: when a generation was verified
  type: list
  elements: str
  sample: [all-MiniLM-L6-v2/model.safetensors]
corrupt:
  description: The files that are not as they must be, without those that were repaired.
  returned: when a generation was verified
  type: list
  elements: dict
  contains: &defect
    model:
      description: The model's name.
      type: str
    path:
      description: The file's path below the model's directory.
      type: str
    sha256:
      description: What its SHA-256 must be.
      type: str
    derived:
      description: Whether M(gpufleet.models.model_convert) made it on this host; then it cannot be fetched.
      type: bool
    reason:
      description: What is wrong with it.
      type: str
    blocks:
      description: The damaged blocks, of 16 MiB each and counted from 0; V(null) where they cannot be told.
      type: list
      elements: int
missing:
  description: The files of which there is nothing to read, without those that were repaired.
  returned: when a generation was verified
  type: list
  elements: dict
  contains: *defect
repaired:
  description: The files that were repaired, and what had been wrong with them.
  returned: when a generation was verified
  type: list
  elements: dict
  contains: *defect
unexpected:
  description: Files below the generation's directory that do not belong to it.
  returned: when a generation was verified
  type: list
  elements: str
hashed_bytes:
  description: Bytes that were read and hashed.
  returned: when a generation was verified
  type: int
downloaded_bytes:
  description: Bytes that came over the network.
  returned: when a generation was verified
  type: int
coverage:
  description: How well the ledger covers the generation after this run.
  returned: when a generation was verified
  type: dict
  contains:
    never_verified:
      description: The number of different files that were never found whole since the ledger began.
      type: int
    oldest_verification:
      description: When the least recently verified file was (UTC, ISO 8601); V(null) while some never were.
      type: str
"""

import contextlib
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._detach import detach
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._info import describe_models
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._module import (
    ROOT_ARGUMENT,
    TRANSFER_ARGUMENTS,
    WORK_ARGUMENT,
    WRITER_ARGUMENTS,
    hub_of,
    limits_of,
    owner_of,
    root_of,
    run_module,
    work_name_of,
)
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._verify import (
    Defect,
    Examination,
    coverage,
    describe_defects,
    examine,
    record,
    repair,
    repaired,
)
from ansible_collections.gpufleet.models.plugins.module_utils._work import Work


class VerifyManager:
    """Verifies one generation of one host's store."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.root = root_of(params)
        self.full: bool = params["mode"] == "full"
        self.budget_seconds = params["budget_seconds"]
        if self.budget_seconds is not None and self.budget_seconds <= 0:
            raise InvalidInput(f"budget_seconds: expected more than 0, found {self.budget_seconds:g}")
        self.repair: bool = params["repair"] and not module.check_mode
        self.hub = hub_of(params)
        self.limits = limits_of(params)
        self.owner = owner_of(params)
        self.work_name = work_name_of(params)

    def run(self, cancelled: threading.Event) -> dict[str, Any]:
        """Verify, repair if asked for, and return the module's result."""
        store = Store.open(self.root, self.owner)
        if store is None:
            raise InvalidInput(f"{self.root} does not exist; stage something first")
        with store:
            self._manifest(store)
            operation, hidden = "repair" if self.repair else "verify", self.module.check_mode
            work = Work(store, operation, self.repair, self.limits.timeout, cancelled, self.work_name, hidden)
            if self.full or self.repair:
                detach(work)
            return self._verify(store, work, cancelled)

    def _verify(self, store: Store, work: Work, cancelled: threading.Event) -> dict[str, Any]:
        with work, self._writer(store, work, cancelled):
            manifest = self._manifest(store)
            found = after = examine(store, manifest, self.full, self.budget_seconds, cancelled, work.begin("hash"))
            # What was found is known whatever becomes of the repair.
            self._record(store, found, [])
            downloaded = 0
            if self.repair:
                after, downloaded = repair(store, found, self.hub, self.limits, cancelled, work)
            mended = repaired(found, after)
            if mended:
                self._record(store, after, mended)
            return self._result(store, found, after, mended, downloaded)

    def _manifest(self, store: Store) -> Manifest:
        generations = Generations(store)
        number = self.module.params["generation"]
        if number is None:
            number = generations.current()
        if number is None:
            raise InvalidInput(f"{self.root} serves no generation; name one to verify, or serve one first")
        return generations.manifest(number)

    def _writer(self, store: Store, work: Work, cancelled: threading.Event) -> contextlib.AbstractContextManager[None]:
        if self.repair:
            return store.writer("model_verify", self.module.params["lock_timeout"], cancelled, work.wait)
        return contextlib.nullcontext()

    def _record(self, store: Store, examination: Examination, mended: list[Defect]) -> None:
        if self.module.check_mode:
            return
        try:
            record(store, examination, mended)
        except OSError as error:
            self.module.warn(f"the ledger of {self.root} could not be written: {error.strerror}")

    def _result(
        self, store: Store, found: Examination, after: Examination, mended: list[Defect], downloaded: int
    ) -> dict[str, Any]:
        left = after.defects()
        last = Ledger(store.root).last_verified()
        result: dict[str, Any] = {
            # Putting back a file's time alone is a repair of no defect.
            "changed": bool(mended) or after.inspection.problems != found.inspection.problems,
            "generation": found.manifest.generation,
            "models": describe_models(Generations(store).path(found.manifest.generation), found.manifest, last),
            "verified": after.verified(hashed_only=self.full),
            "corrupt": [defect.to_json() for defect in left if not defect.missing],
            "missing": [defect.to_json() for defect in left if defect.missing],
            "repaired": [defect.to_json() for defect in mended],
            "unexpected": list(after.inspection.unexpected),
            "hashed_bytes": found.hashed_bytes(),
            "downloaded_bytes": downloaded,
            "coverage": coverage(found.manifest, last),
        }
        if left:
            result["failed"] = True
            advice = "it could not be repaired" if self.repair else "run it with repair to mend it"
            if after.obstacle is not None:
                advice = f"{advice}: {after.obstacle}"
            result["msg"] = describe_defects(found.manifest, left, advice)
        return result


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            **TRANSFER_ARGUMENTS,
            **WRITER_ARGUMENTS,
            **WORK_ARGUMENT,
            "generation": {"type": "int"},
            "mode": {"type": "str", "choices": ["full", "quick"], "default": "full"},
            "budget_seconds": {"type": "float"},
            "repair": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: VerifyManager(module).run(cancelled))


if __name__ == "__main__":
    main()
