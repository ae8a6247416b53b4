#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_generation
short_description: Stage, serve and remove generations of AI models
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Makes a host hold exactly the models that a lock names, as one numbered generation, and serves it by one atomic
    switch.
  - Every file is received by blocks over several connections, resumed where an earlier run stopped, and hashed before
    it can be seen. Files that an earlier generation has are hashed again and reused. Until everything is proven, and
    whatever fails, the generation that is being served stays as it is.
  - When the wanted models are served already, no byte is read and no request is sent.
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
    details: Reports the same plan that the real run carries out, with its bytes.
  diff_mode:
    support: partial
    details: Shows the models with their commits, before and after; nothing where a generation is removed.
  idempotent:
    support: partial
    details: Going back to V(previous) goes back one further generation each time.
options:
  models:
    description:
      - The models that the host shall hold, as in the C(models) list of a lock that M(gpufleet.models.model_lock) made.
      - Required for O(state=staged). With O(state=active) either this or O(generation) is required.
    type: list
    elements: dict
  state:
    description:
      - V(staged) makes the generation without serving it.
      - V(active) makes it and serves it; with O(generation) it serves an existing one.
      - V(absent) removes the generation that O(generation) names, unless it is served. Its blobs stay for reuse until
        M(gpufleet.models.model_prune) removes them.
    type: str
    choices: [active, staged, absent]
    default: active
  generation:
    description:
      - The number of an existing generation, or V(previous) for the one that was served before the current one.
    type: str
seealso:
  - module: gpufleet.models.model_lock
  - module: gpufleet.models.model_verify
  - module: gpufleet.models.model_prune
"""

EXAMPLES = r"""
- name: Hold and serve what the lock names
  gpufleet.models.model_generation:
    root: /opt/models
    models: "{{ (lookup('ansible.builtin.file', 'models.lock.json') | from_json).models }}"

- name: Stage it without serving it
  gpufleet.models.model_generation:
    root: /opt/models
    models: "{{ lock.models }}"
    state: staged
  register: staged

- name: Serve what was staged
  gpufleet.models.model_generation:
    root: /opt/models
    generation: "{{ staged.generation }}"

- name: Roll back
  gpufleet.models.model_generation:
    root: /opt/models
    generation: previous
"""

RETURN = r"""
generation:
  description: The generation that has the wanted models; V(null) in check mode when it does not exist yet.
  returned: success
  type: int
  sample: 7
previous_generation:
  description: The generation that was served before; V(null) when there was none.
  returned: success
  type: int
  sample: 6
served:
  description: Whether the generation is served after this; in check mode whether it would be.
  returned: success
  type: bool
directory:
  description: Where the generation lies.
  returned: when the generation exists
  type: str
  sample: /opt/models/generations/7
models:
  description: What becomes of each model, compared with what was served.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The model's name.
      type: str
    commit:
      description: Its commit; V(null) when it is removed.
      type: str
    action:
      description: One of V(added), V(updated), V(removed), V(unchanged).
      type: str
downloaded_bytes:
  description: Bytes that came over the network. In check mode, bytes that would come.
  returned: success
  type: int
reused_bytes:
  description: Size of the blobs that were there already, in bytes.
  returned: success
  type: int
"""

import contextlib
import os
import re
import threading
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._detach import detach
from ansible_collections.gpufleet.models.plugins.module_utils._errors import ContentError, InvalidInput, ModelsError
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._inspect import inspect
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import parse_models, unexpected
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
from ansible_collections.gpufleet.models.plugins.module_utils._plan import (
    Plan,
    describe_changes,
    diff_models,
    make_plan,
    plan_switch,
    summary,
    take_snapshot,
)
from ansible_collections.gpufleet.models.plugins.module_utils._stage import activate, carry_out
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._work import Work


class GenerationManager:
    """Brings one host's store to the wanted state."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.check_mode = module.check_mode
        self.root = root_of(params)
        self.state: str = params["state"]
        self.wanted: str | None = params["generation"]
        if self.wanted not in (None, "previous") and not re.fullmatch("[1-9][0-9]{0,8}", self.wanted):
            raise unexpected("generation", "a number or 'previous'", self.wanted)
        self.models = parse_models(params["models"] or [])
        if self.wanted is None and not self.models:
            raise InvalidInput("models: expected at least one model, found none")
        self.hub = hub_of(params)
        self.limits = limits_of(params)
        self.owner = owner_of(params)
        self.lock_timeout: float = params["lock_timeout"]
        self.work_name = work_name_of(params)

    def run(self, cancelled: threading.Event) -> dict[str, Any]:
        """Do what the arguments ask for and return the module's result."""
        if self.wanted is not None:
            existing = self._remove if self.state == "absent" else self._serve
            return existing(self.wanted, cancelled)
        with Store.open(self.root) or contextlib.nullcontext() as store:
            plan = self._plan(store)
        if self.check_mode or not plan.changed:
            return self._result(plan, plan.use, plan.download_bytes)
        with Store.create(self.root, self.owner) as store:
            work = Work(store, "stage", True, self.limits.timeout, cancelled, self.work_name)
            if plan.stage:
                detach(work)
            return self._carry_out(plan, store, work, cancelled)

    def _carry_out(self, plan: Plan, store: Store, work: Work, cancelled: threading.Event) -> dict[str, Any]:
        try:
            with work, self._writer(store, cancelled, work.wait):
                # Another writer may have been faster.
                plan = self._plan(store)
                outcome = carry_out(plan, store, self.hub, self.limits, cancelled, work)
                return self._result(plan, outcome.generation, outcome.downloaded_bytes)
        except ModelsError as error:
            serving = "nothing" if plan.previous is None else f"generation {plan.previous}"
            raise type(error)(f"{error}; {serving} is served as before") from None

    def _plan(self, store: Store | None) -> Plan:
        plan = make_plan(self.models, self.state == "active", take_snapshot(self.root, store, self.models))
        plan.require_space(self.root)
        return plan

    def _result(self, plan: Plan, generation: int | None, downloaded_bytes: int) -> dict[str, Any]:
        return {
            "changed": plan.changed,
            "msg": summary(plan),
            "generation": generation,
            "previous_generation": plan.previous,
            "served": plan.activate or (generation is not None and generation == plan.previous),
            "directory": generation and os.path.join(self.root, "generations", str(generation)),
            "models": describe_changes(plan),
            "downloaded_bytes": downloaded_bytes,
            "reused_bytes": plan.reused_bytes,
            "diff": diff_models(plan),
        }

    def _serve(self, wanted: str, cancelled: threading.Event) -> dict[str, Any]:
        """Serve an existing generation, if it looks whole."""
        with self._existing_store() as store:
            plan = None
            with contextlib.suppress(ContentError):
                plan = self._plan_switch(store, wanted)
            # What is served already needs no lock, so that it never waits for a writer.
            if plan is None or plan.activate:
                with self._writer(store, cancelled):
                    plan = self._plan_switch(store, wanted)
                    if plan.activate and plan.use is not None and not self.check_mode:
                        activate(store, plan.use)
            return self._result(plan, plan.use, 0)

    @staticmethod
    def _plan_switch(store: Store, wanted: str) -> Plan:
        generations = Generations(store)
        number = generations.previous() if wanted == "previous" else int(wanted)
        manifest = generations.manifest(number)
        problems = inspect(store, manifest).problems
        if problems:
            first = problems[0]
            raise ContentError(
                f"generation {number} is damaged and was not served: {first.file.path} of {first.model.name}: "
                f"{first.detail}; repair it with model_verify"
            )
        return plan_switch(manifest, generations.current(), generations.served_models())

    def _remove(self, wanted: str, cancelled: threading.Event) -> dict[str, Any]:
        """Remove an existing generation that is not served."""
        if wanted == "previous":
            raise InvalidInput(f"generation: expected a number to remove, found {wanted!r}")
        with self._existing_store() as store, self._writer(store, cancelled):
            generations = Generations(store)
            number, current = int(wanted), generations.current()
            if number == current:
                raise InvalidInput(f"generation {number} is being served; serve another one before you remove it")
            exists = number in generations.numbers()
            if exists and not self.check_mode:
                generations.remove(number)
                Ledger(store.root).append([{"event": "removed", "generation": number}])
            return {
                "changed": exists,
                "msg": f"remove generation {number}" if exists else f"there is no generation {number}",
                "generation": number,
                "previous_generation": current,
                "served": False,
                "models": [],
                "downloaded_bytes": 0,
                "reused_bytes": 0,
            }

    def _existing_store(self) -> Store:
        store = Store.open(self.root, self.owner)
        if store is None:
            raise InvalidInput(f"{self.root} does not exist, so there is no generation {self.wanted} in it")
        return store

    def _writer(
        self, store: Store, cancelled: threading.Event, waiting: Callable[[int | None], bool] = lambda _holder: False
    ) -> contextlib.AbstractContextManager[None]:
        if self.check_mode:
            return contextlib.nullcontext()
        return store.writer("model_generation", self.lock_timeout, cancelled, waiting)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            **TRANSFER_ARGUMENTS,
            **WRITER_ARGUMENTS,
            **WORK_ARGUMENT,
            "models": {"type": "list", "elements": "dict"},
            "state": {"type": "str", "choices": ["active", "staged", "absent"], "default": "active"},
            "generation": {"type": "str"},
        },
        mutually_exclusive=[("models", "generation")],
        required_if=[
            ("state", "active", ("models", "generation"), True),
            ("state", "staged", ("models",)),
            ("state", "absent", ("generation",)),
        ],
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: GenerationManager(module).run(cancelled))


if __name__ == "__main__":
    main()
