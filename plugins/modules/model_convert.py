#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_convert
short_description: Convert AI models of a generation to OpenVINO on the host
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Makes OpenVINO models with weights of 8 bits from those models whose entry in the lock has C(convert), from their
    proven files, and keeps what it made in the store like what was downloaded. Tasks are C(embedding), C(rerank) and
    C(text2text).
  - A generation never changes. What was converted is in a new one, which is staged, not served. It has the same models,
    and the new files in the directory C(openvino) of each.
  - What was converted before of the same files with the same packages is taken again, from whatever generation has it.
  - The model is opened in the environment O(venv) by a process of its own, without the network and without running code
    of its repository. Its outputs are compared with those of the model itself before anything is kept.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
  - gpufleet.models.writer
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
    details: When it is run again, it finds the generation that it made, without opening or reading a model.
options:
  generation:
    description: The number of the generation; by default the one that is served.
    type: int
  models:
    description:
      - The models as a lock that M(gpufleet.models.model_lock) made has them now. Their C(convert) goes before that of
        the time when the generation was staged.
    type: list
    elements: dict
  venv:
    description: The environment that has torch, transformers, tokenizers, openvino and nncf.
    type: path
    default: /opt/models/env
  timeout:
    description: Seconds that all conversions may take.
    type: float
    default: 3600
seealso:
  - module: gpufleet.models.model_generation
  - module: gpufleet.models.model_smoke
"""

EXAMPLES = r"""
- name: Stage the models
  gpufleet.models.model_generation:
    root: /opt/models
    models: "{{ lock.models }}"
    state: staged
  register: staged

- name: Convert those that shall be
  gpufleet.models.model_convert:
    root: /opt/models
    generation: "{{ staged.generation }}"
  register: converted

- name: Serve all of them
  gpufleet.models.model_generation:
    root: /opt/models
    generation: "{{ converted.generation }}"
"""

RETURN = r"""
generation:
  description: The generation that has the models as they shall be; V(null) in check mode when it would be made.
  returned: success
  type: int
  sample: 8
source_generation:
  description: The generation whose models were to be converted.
  returned: success
  type: int
  sample: 7
models:
  description: The models that are to be converted.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The model's name.
      type: str
    action:
      description: C(converted), C(taken) from another generation, or C(unchanged); in check mode what would be.
      type: str
    source_bytes:
      description: The size of the weights that it was converted from, in bytes.
      type: int
    bytes:
      description: The size of what was made, in bytes; V(null) in check mode when it would be made.
      type: int
    cosine:
      description: The smallest cosine of the outputs to those of the model itself, V(null) likewise.
      type: float
    files:
      description: What was made, below the model's directory.
      type: list
      elements: str
"""

import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._convert import carry_out, look
from ansible_collections.gpufleet.models.plugins.module_utils._convert_plan import (
    ConversionPlan,
    Wish,
    converters,
    make_wishes,
)
from ansible_collections.gpufleet.models.plugins.module_utils._derived import Derived
from ansible_collections.gpufleet.models.plugins.module_utils._environments import installed_packages
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput, ModelsError, PythonError
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import Model, parse_models, with_wishes
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._module import (
    ROOT_ARGUMENT,
    WRITER_ARGUMENTS,
    owner_of,
    root_of,
    run_module,
)
from ansible_collections.gpufleet.models.plugins.module_utils._process import Limit
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store


class ConvertManager:
    """Converts the models of one generation of one host's store."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.check_mode = module.check_mode
        self.root = root_of(params)
        self.wanted: int | None = params["generation"]
        self.locked = parse_models(params["models"] or [])
        self.venv: str = params["venv"].rstrip("/")
        self.owner = owner_of(params)
        self.lock_timeout: float = params["lock_timeout"]
        self.timeout: float = params["timeout"]
        if self.timeout <= 0:
            raise InvalidInput(f"timeout: expected more than 0 seconds, found {self.timeout:g}")

    def run(self, cancelled: threading.Event) -> dict[str, Any]:
        """Convert what is to be converted and return the module's result."""
        limit = Limit.of(self.timeout, cancelled)
        store = Store.open(self.root, self.owner)
        if store is None:
            raise InvalidInput(f"{self.root} does not exist; stage something first")
        with store:
            generations = Generations(store)
            base = self._base(generations)
            models = tuple(with_wishes(base.models, self.locked))
            try:
                wishes = self._wishes(models, generations.path(base.generation))
            except PythonError as error:
                # The environment may be what this run would bring.
                if self.check_mode:
                    return {"changed": True, "msg": f"cannot tell yet: {error}", "generation": None, "models": []}
                raise
            plan = look(store, base, wishes, limit)
            if plan.use is not None:
                return self._result(plan, wishes, plan.use, generations.manifest(plan.use).derived)
            if self.check_mode:
                return self._result(plan, wishes, None, plan.take)
            with store.writer("model_convert", self.lock_timeout, cancelled):
                # Another writer may have been faster.
                plan = look(store, self._base(generations), wishes, limit)
                try:
                    outcome = carry_out(plan, store, models, self.venv, limit)
                except ModelsError as error:
                    current = generations.current()
                    serving = "nothing" if current is None else f"generation {current}"
                    raise type(error)(f"{error}; {serving} is served as before") from None
            return self._result(plan, wishes, outcome.generation, outcome.derived)

    def _base(self, generations: Generations) -> Manifest:
        number = generations.current() if self.wanted is None else self.wanted
        if number is None:
            raise InvalidInput(f"{self.root} serves no generation; name one to convert, or serve one first")
        return generations.manifest(number)

    def _wishes(self, models: tuple[Model, ...], directory: str) -> list[Wish]:
        if not any(model.convert is not None for model in models):
            return []
        return make_wishes(models, directory, converters(installed_packages(self.venv), self.venv))

    def _result(
        self, plan: ConversionPlan, wishes: list[Wish], generation: int | None, derived: tuple[Derived, ...]
    ) -> dict[str, Any]:
        there = {found.model: found for found in derived}
        made = {wish.model.name for wish in plan.make}
        taken = {found.model for found in plan.take}
        return {
            "changed": plan.use is None,
            "msg": _sentence(plan, generation),
            "generation": generation,
            "source_generation": plan.base.generation,
            "models": [
                {
                    "name": wish.model.name,
                    "action": _action(wish.model.name, made, taken),
                    "source_bytes": wish.source_bytes,
                    **_describe(there.get(wish.model.name)),
                }
                for wish in wishes
            ],
        }


def _action(name: str, made: set[str], taken: set[str]) -> str:
    if name in made:
        return "converted"
    return "taken" if name in taken else "unchanged"


def _describe(derived: Derived | None) -> dict[str, Any]:
    if derived is None:
        return {"bytes": None, "cosine": None, "files": []}
    size = sum(file.size for file in derived.files)
    return {"bytes": size, "cosine": derived.cosine, "files": [file.path for file in derived.files]}


def _sentence(plan: ConversionPlan, generation: int | None) -> str:
    if plan.use is not None:
        return f"generation {plan.use} has these models as they shall be"
    made = ", ".join(wish.model.name for wish in plan.make)
    what = [f"convert {made}"] if made else []
    taken = ", ".join(derived.model for derived in plan.take)
    what += [f"take what was made of {taken} before"] if taken else []
    what += [f"stage generation {generation}" if generation else "stage a new generation"]
    return ", ".join(what)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            **WRITER_ARGUMENTS,
            "generation": {"type": "int"},
            "models": {"type": "list", "elements": "dict"},
            "venv": {"type": "path", "default": "/opt/models/env"},
            "timeout": {"type": "float", "default": 3600.0},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: ConvertManager(module).run(cancelled))


if __name__ == "__main__":
    main()
