#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_prune
short_description: Free the disk space of AI models that are no longer needed
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Removes old generations, blobs that no remaining generation links to, and what interrupted transfers left behind.
  - What is served, and what was staged after it, is never removed.
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
options:
  keep:
    description:
      - How many generations to keep, with the one that is served; at least 1.
    type: int
    default: 2
  partial_max_age:
    description:
      - Days since a partial file was last written to, after which it is removed; V(0) removes all of them.
    type: float
    default: 7.0
"""

EXAMPLES = r"""
- name: Keep what is served and the one before
  gpufleet.models.model_prune:
    root: /opt/models
    keep: 2
"""

RETURN = r"""
generations:
  description: The generations that were removed.
  returned: success
  type: list
  elements: int
blobs:
  description: The number of blobs that were removed.
  returned: success
  type: int
partials:
  description: The number of partial files that were removed.
  returned: success
  type: int
freed_bytes:
  description: The disk space that this freed, in bytes as the filesystem counts them.
  returned: success
  type: int
"""

import contextlib
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._module import (
    ROOT_ARGUMENT,
    WRITER_ARGUMENTS,
    owner_of,
    root_of,
    run_module,
)
from ansible_collections.gpufleet.models.plugins.module_utils._prune import Garbage, find_garbage, remove_garbage
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store

_DAY = 24 * 60 * 60  # seconds


def prune(module: AnsibleModule, cancelled: threading.Event) -> dict[str, Any]:
    """Find garbage, remove it outside of check mode, and return the module's result."""
    params = module.params
    if params["keep"] < 1:
        raise InvalidInput(f"keep: expected at least 1, found {params['keep']}")
    if params["partial_max_age"] < 0:
        raise InvalidInput(f"partial_max_age: expected at least 0 days, found {params['partial_max_age']:g}")
    store = Store.open(root_of(params), owner_of(params))
    if store is None:
        return _result(Garbage())
    with store, contextlib.ExitStack() as stack:
        if not module.check_mode:
            stack.enter_context(store.writer("model_prune", params["lock_timeout"], cancelled))
        garbage = find_garbage(store, params["keep"], params["partial_max_age"] * _DAY)
        if not garbage.empty and not module.check_mode:
            remove_garbage(store, garbage)
        return _result(garbage)


def _result(garbage: Garbage) -> dict[str, Any]:
    return {
        "changed": not garbage.empty,
        "generations": list(garbage.generations),
        "blobs": len(garbage.blobs),
        "partials": len(garbage.partials),
        "freed_bytes": garbage.freed_bytes,
    }


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            **WRITER_ARGUMENTS,
            "keep": {"type": "int", "default": 2},
            "partial_max_age": {"type": "float", "default": 7.0},
        },
        supports_check_mode=True,
    )

    run_module(module, lambda cancelled: prune(module, cancelled))


if __name__ == "__main__":
    main()
