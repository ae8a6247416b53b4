#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_activation
short_description: Note that a generation of AI models is about to be served
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Notes in a store that what uses its models is being prepared for another generation. When that run dies, the next
    one finds the note, and can prepare it again.
  - The role P(gpufleet.models.model_store#role) notes it before it runs its hooks, and removes the note after them.
    M(gpufleet.models.model_store_info) returns it.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) notes that the generation is about to be served, V(absent) removes the note.
    type: str
    choices: [present, absent]
    default: present
  generation:
    description:
      - The number of the generation that is about to be served; none where nothing is going to be.
    type: int
  previous_generation:
    description:
      - The number of the generation that is served until then; none where nothing is.
    type: int
seealso:
  - module: gpufleet.models.model_generation
  - module: gpufleet.models.model_store_info
"""

EXAMPLES = r"""
- name: Note what is about to be served
  gpufleet.models.model_activation:
    root: /opt/models
    generation: 8
    previous_generation: 7

- name: Note that it is served
  gpufleet.models.model_activation:
    root: /opt/models
    state: absent
"""

RETURN = r"""
activation:
  description: What is noted now; V(null) when nothing is. In check mode, what would be.
  returned: success
  type: dict
  contains:
    generation:
      description: The generation that is about to be served.
      type: int
    previous_generation:
      description: The generation that is served until then.
      type: int
"""

import threading
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._activation import Activation
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._module import ROOT_ARGUMENT, root_of, run_module
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "generation": {"type": "int"},
            "previous_generation": {"type": "int"},
        },
        supports_check_mode=True,
    )

    def work(_cancelled: threading.Event) -> dict[str, Any]:
        params = module.params
        root = root_of(params)
        wanted = None
        if params["state"] == "present":
            wanted = Activation(params["generation"], params["previous_generation"])
        store = Store.open(root)
        if store is None:
            if wanted is not None:
                raise InvalidInput(f"{root} does not exist, so there is nothing to serve in it")
            return _result(False, None)
        with store:
            changed = Activation.read(store.root) != wanted
            if changed and not module.check_mode:
                if wanted is None:
                    Activation.remove(store.root)
                else:
                    wanted.write(store.root)
        return _result(changed, wanted)

    run_module(module, work)


def _result(changed: bool, activation: Activation | None) -> dict[str, Any]:
    return {"changed": changed, "activation": activation and asdict(activation)}


if __name__ == "__main__":
    main()
