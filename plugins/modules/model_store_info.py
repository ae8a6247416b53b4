#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_store_info
short_description: Tell what a host's store of AI models holds
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Tells which generation is served, which others there are, what interrupted transfers have so far, and when each
    model was last verified. Reads no model's content.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
attributes:
  check_mode:
    support: full
    details: It changes nothing anyway.
  diff_mode:
    support: none
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Look into the store
  gpufleet.models.model_store_info:
    root: /opt/models
  register: store

- name: Show what is served
  ansible.builtin.debug:
    msg: "{{ store.generations | selectattr('current') }}"
"""

RETURN = r"""
exists:
  description: Whether there is a store at all.
  returned: success
  type: bool
current:
  description: The number of the generation that is served; V(null) when there is none.
  returned: success
  type: int
  sample: 7
activation:
  description:
    - What the role model_store was about to serve when a run of it ended between its hooks, so that the next run
      runs them again; V(null) when there is no such thing.
  returned: success
  type: dict
  contains:
    generation:
      description: The generation's number; V(null) when that is not known.
      type: int
    previous_generation:
      description: The generation that was served before; V(null) when there was none or it is not known.
      type: int
generations:
  description: All generations, the lowest number first.
  returned: success
  type: list
  elements: dict
  contains:
    generation:
      description: Its number.
      type: int
    current:
      description: Whether it is served.
      type: bool
    served:
      description: Whether it ever was served; one that never was is staged.
      type: bool
    lock_digest:
      description: The digest of the models that it was made from; V(null) when its manifest is damaged.
      type: str
    models:
      description: Its models.
      type: list
      elements: dict
      contains:
        name:
          description: The model's name.
          type: str
        repo_id:
          description: Its repository.
          type: str
        commit:
          description: Its commit.
          type: str
        path:
          description: Where it lies.
          type: str
        files:
          description: The number of its files, without those that were made on this host.
          type: int
        bytes:
          description: The size of these files in bytes.
          type: int
        derived:
          description: The files that M(gpufleet.models.model_convert) made of it, by their paths.
          type: list
          elements: str
        derived_bytes:
          description: The size of these files in bytes.
          type: int
        last_verified:
          description: When its file that was verified longest ago was (UTC, ISO 8601); V(null) while one never was.
          type: str
    smoke:
      description: What came of its last smoke test; V(null) when there was none.
      type: dict
      contains:
        at:
          description: When it was (UTC, ISO 8601).
          type: str
        passed:
          description: Whether every model may be served.
          type: bool
        digest:
          description: The SHA-256 over everything that the outcome depends on.
          type: str
        models:
          description: The outcome for each model, as M(gpufleet.models.model_smoke) returns it.
          type: list
          elements: dict
partials:
  description: What interrupted transfers left, for the next one to go on from.
  returned: success
  type: list
  elements: dict
  contains:
    sha256:
      description: The blob that it will be.
      type: str
    size:
      description: The blob's size in bytes.
      type: int
    disk_bytes:
      description: What it takes on disk, in bytes.
      type: int
blobs:
  description: The number of blobs.
  returned: success
  type: int
disk_bytes:
  description: What blobs and partial files take on disk, in bytes.
  returned: success
  type: int
free_bytes:
  description: What may still be written to the filesystem, in bytes; V(null) without a store.
  returned: success
  type: int
"""

import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._info import describe_store
from ansible_collections.gpufleet.models.plugins.module_utils._module import ROOT_ARGUMENT, root_of, run_module
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=dict(ROOT_ARGUMENT), supports_check_mode=True)

    def work(_cancelled: threading.Event) -> dict[str, Any]:
        store = Store.open(root_of(module.params))
        if store is None:
            return describe_store(None)
        with store:
            return describe_store(store)

    run_module(module, work)


if __name__ == "__main__":
    main()
