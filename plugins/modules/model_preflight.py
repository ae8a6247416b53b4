#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_preflight
short_description: Tell whether a host can hold and run AI models, before anything is changed
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Fails with everything that is missing, in one message. It looks at the disk space for what is still to be received,
    at the endpoint and the rights of the token (one byte of each repository that something is to be received from), at
    what the models require of the GPUs, and at the driver for the CUDA version of the environment's torch.
  - GPUs are only looked at for models with C(requires), and the endpoint is only asked when something is to be
    received.
  - Makes the same plan as M(gpufleet.models.model_generation). Where RV(generation) has the models already, there is
    nothing to stage.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
  - gpufleet.models.hub
attributes:
  check_mode:
    support: full
    details:
      - It changes nothing anyway. In check mode a host whose environment has still to be made is not blamed for that.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  models:
    description:
      - The models that the host shall hold, as in the C(models) list of a lock that M(gpufleet.models.model_lock) made.
      - Their C(requires) may have C(gpus), the number of GPUs (1 by default), C(gpu_memory_mib), the memory in MiB that
        each of them must have in all, and C(compute_capability), the lowest that will do. A MIG device counts as a GPU.
    type: list
    elements: dict
    required: true
  venv:
    description:
      - The virtual environment with nvidia-ml-py and, where it is wanted, torch.
    type: path
    default: /opt/models/env
seealso:
  - module: gpufleet.models.gpu_info
  - module: gpufleet.models.model_generation
"""

EXAMPLES = r"""
- name: Look before anything is changed
  gpufleet.models.model_preflight:
    root: /opt/models
    models: "{{ (lookup('ansible.builtin.file', 'models.lock.json') | from_json).models }}"
"""

RETURN = r"""
problems:
  description: What is missing, one sentence each.
  returned: always
  type: list
  elements: str
  sample:
    - "pixtral-12b: expected 1 GPU with at least 24576 MiB of memory, found NVIDIA T4 (15360 MiB, 7.5)"
download_bytes:
  description: What is still to be received, in bytes.
  returned: always
  type: int
generation:
  description: The generation that has the wanted models already; V(null) when one has to be staged.
  returned: always
  type: int
  sample: 7
models:
  description: What will become of each model, as M(gpufleet.models.model_generation) tells it.
  returned: always
  type: list
  elements: dict
store:
  description: What the store holds, as M(gpufleet.models.model_store_info) tells it.
  returned: always
  type: dict
"""

import contextlib
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._info import describe_store
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import parse_models
from ansible_collections.gpufleet.models.plugins.module_utils._module import (
    HUB_ARGUMENTS,
    ROOT_ARGUMENT,
    hub_of,
    root_of,
    run_module,
)
from ansible_collections.gpufleet.models.plugins.module_utils._plan import describe_changes, make_plan, take_snapshot
from ansible_collections.gpufleet.models.plugins.module_utils._preflight import find_problems
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store


def preflight(module: AnsibleModule, cancelled: threading.Event) -> dict[str, Any]:
    """Look, and return the module's result."""
    root, hub = root_of(module.params), hub_of(module.params)
    models = parse_models(module.params["models"])
    if not models:
        raise InvalidInput("models: expected at least one model, found none")
    with Store.open(root) or contextlib.nullcontext() as store:
        held = describe_store(store)
        plan = make_plan(models, True, take_snapshot(root, store, models))
    problems = list(find_problems(plan, root, hub, module.params["venv"], module.check_mode, cancelled))
    result = {
        "changed": False,
        "problems": problems,
        "download_bytes": plan.download_bytes,
        "generation": plan.use,
        "models": describe_changes(plan),
        "store": held,
    }
    if problems:
        return {**result, "failed": True, "msg": f"{'; '.join(problems)}; nothing was changed"}
    return {**result, "msg": "nothing is missing"}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            **HUB_ARGUMENTS,
            "models": {"type": "list", "elements": "dict", "required": True},
            "venv": {"type": "path", "default": "/opt/models/env"},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: preflight(module, cancelled))


if __name__ == "__main__":
    main()
