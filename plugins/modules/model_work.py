#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_work
short_description: Tell and stop what goes on in a store of AI models
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Tells what M(gpufleet.models.model_generation) and M(gpufleet.models.model_verify) are doing on a host at the
    moment, however they were started, and stops it if wanted.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
  - gpufleet.models.work
attributes:
  check_mode:
    support: full
    details: Tells what it would stop.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  stop:
    description:
      - Stop it. Within five seconds nothing of it is left, but for what was received, from which the next run goes on.
        What is served stays as it is.
      - It gets a SIGTERM, and a SIGKILL when it has not ended after three seconds.
    type: bool
    default: false
  _wait:
    description:
      - Wait so many seconds for the end of the work with that name, and return its result. For the action plugins.
    type: float
  _forget:
    description:
      - Remove what there is of the work with that name. For the action plugins.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See what goes on
  gpufleet.models.model_work:
    root: /opt/models
  register: now

- name: Stop it
  gpufleet.models.model_work:
    root: /opt/models
    stop: true
"""

RETURN = r"""
works:
  description: What went on when it looked.
  returned: success
  type: list
  elements: dict
  contains:
    operation:
      description: What is done, V(stage), V(verify) or V(repair).
      type: str
    doing:
      description:
        - Which part of it, V(hash) or V(receive); V(wait) while another run writes to the store, which the figures
          below are of then; empty before it has begun.
      type: str
    what:
      description: The file that is worked on, and its model.
      type: str
      sample: model.safetensors of all-MiniLM-L6-v2
    pid:
      description: Its process.
      type: int
    seconds:
      description: How long it went on when it last told.
      type: float
    total_bytes:
      description: The size of this part of the work; V(null) while it is not known.
      type: int
    done_bytes:
      description: How much of that is done, with what was there before; V(null) while it is not known.
      type: int
    bytes_per_second:
      description: How fast that grows; V(null) while it is not known.
      type: int
"""

import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._detach import attend, tell
from ansible_collections.gpufleet.models.plugins.module_utils._errors import StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._module import (
    ROOT_ARGUMENT,
    WORK_ARGUMENT,
    root_of,
    run_module,
    work_name_of,
)
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._work_record import (
    Record,
    forget,
    read_record,
    stop,
    work_of,
)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            **WORK_ARGUMENT,
            "stop": {"type": "bool", "default": False},
            "_wait": {"type": "float"},
            "_forget": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )

    def work(_cancelled: threading.Event) -> dict[str, Any]:
        store = Store.open(root_of(module.params))
        name = work_name_of(module.params)
        if store is None and name is not None:
            raise StoreError(f"{module.params['root']} is gone, and with it the record of this work")
        if store is None:
            return _result([], False, module.params["root"])
        with store:
            if name is not None and module.params["_wait"] is not None:
                tell(attend(store, name, module.params["_wait"])[1])
            records = work_of(store) if name is None else _named(store, name)
            if module.params["stop"] and not module.check_mode:
                stop(records)
            if name is not None and module.params["_forget"]:
                forget(store, name)
        return _result(records, module.params["stop"], store.path)

    run_module(module, work)


def _named(store: Store, name: str) -> list[Record]:
    record = read_record(store, name)
    return [record] if record is not None and record.goes_on() else []


def _result(records: list[Record], stopped: bool, root: str) -> dict[str, Any]:
    works = [record.to_json() for record in records]
    what = ", ".join(f"{work['operation']} (process {work['pid']})" for work in works)
    if not works:
        message = f"nothing goes on in {root}"
    elif stopped:
        message = f"stop {what}; what was received is kept"
    else:
        message = f"{what} goes on in {root}"
    return {"changed": bool(works) and stopped, "msg": message, "works": works}


if __name__ == "__main__":
    main()
