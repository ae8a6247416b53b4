#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_lock
short_description: Lock a catalog of AI models to commits and SHA-256 digests
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Resolves every entry of a catalog to a commit of its repository, and every file of that commit that is wanted to its
    size and SHA-256, and writes them into a lock file. Hosts then hold exactly these bytes, whatever becomes of the
    repository.
  - Run it on the control node, review the difference, and commit the lock to version control.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.hub
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details: The same catalog and the same lock give the same bytes, as an unchanged entry keeps its commit.
requirements:
  - huggingface_hub >= 1.0 where the module runs, which is the control node
options:
  catalog:
    description:
      - The models that are wanted.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The model's name; it becomes its directory's name on the hosts.
        type: str
        required: true
      repo_id:
        description: The repository on the Hub.
        type: str
        required: true
      revision:
        description: A branch, a tag, a reference such as V(refs/pr/1), or a commit.
        type: str
        default: main
      include:
        description: Globs over whole paths; only files that match one are wanted. By default all are.
        type: list
        elements: str
      exclude:
        description: Globs over whole paths; files that match one are not wanted.
        type: list
        elements: str
      allow_pickle:
        description:
          - Accept formats that run code when they are loaded, such as C(.bin), C(.pt), C(.pth), C(.pkl) and C(.ckpt).
          - Without it a wanted file of such a format is an error.
        type: bool
        default: false
      allow_code:
        description: Accept program code such as C(.py). Without it a wanted file of that kind is an error.
        type: bool
        default: false
      requires:
        description: What a host must have for the model. It goes into the lock as it is.
        type: dict
      smoke:
        description: How to test that the model computes. It goes into the lock as it is.
        type: dict
      convert:
        description: >-
          What hosts convert the model to; C({format: openvino, bits: 8}) is what there is. It goes into the lock as it
          is.
        type: dict
  dest:
    description:
      - The lock file. It is replaced as a whole, and only when its content changes.
    type: path
    required: true
  upgrade:
    description:
      - V(false) keeps the commit of every entry whose repository and revision are unchanged, V(true) resolves all of
        them anew, a list of names resolves those anew.
    type: raw
    default: false
  timeout:
    description:
      - Seconds for each question to the Hub, with its repetitions. After a refusal it waits as its headers say.
    type: float
    default: 300.0
seealso:
  - module: gpufleet.models.model_generation
"""

EXAMPLES = r"""
- name: Lock the catalog
  gpufleet.models.model_lock:
    catalog:
      - name: all-MiniLM-L6-v2
        repo_id: sentence-transformers/all-MiniLM-L6-v2
        include: ['*.json', '*.txt', model.safetensors]
      - name: law-chat
        repo_id: TheBloke/law-chat-GGUF
        include: [law-chat.Q4_0.gguf]
    dest: "{{ inventory_dir }}/models.lock.json"
  delegate_to: localhost
  run_once: true

- name: Take the newest commit of one model
  gpufleet.models.model_lock:
    catalog: "{{ model_catalog }}"
    dest: "{{ inventory_dir }}/models.lock.json"
    upgrade: [law-chat]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
dest:
  description: The lock file.
  returned: success
  type: str
  sample: /srv/fleet/inventories/production/models.lock.json
models:
  description: What became of each model.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The model's name.
      type: str
    commit:
      description: The commit that it is locked to; V(null) when it was removed.
      type: str
    action:
      description: One of V(added), V(updated), V(removed), V(unchanged).
      type: str
    files:
      description: The number of its files.
      type: int
    bytes:
      description: The size of its files in bytes.
      type: int
"""

import os
import tempfile
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.gpufleet.models.plugins.module_utils._catalog import parse_catalog
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._hub import IMPORT_ERROR, HubClient
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import dump_lock, parse_lock
from ansible_collections.gpufleet.models.plugins.module_utils._module import HUB_ARGUMENTS, hub_of, run_module
from ansible_collections.gpufleet.models.plugins.module_utils._resolve import Upgrade, resolve


class LockManager:
    """Brings one lock file up to date with a catalog."""

    def __init__(self, module: AnsibleModule, cancelled: threading.Event) -> None:
        self.module = module
        self.dest: str = module.params["dest"]
        self.catalog = parse_catalog([_given(entry) for entry in module.params["catalog"]])
        self.upgrade = parse_upgrade(module.params["upgrade"])
        timeout: float = module.params["timeout"]
        if timeout <= 0:
            raise InvalidInput(f"timeout: expected more than 0 seconds, found {timeout:g}")
        self.hub = HubClient(hub_of(module.params), timeout, cancelled)

    def run(self) -> dict[str, Any]:
        """Resolve the catalog, replace the lock file where it differs, and return the module's result."""
        before = self._read()
        locked = parse_lock(before, self.dest) if before else ()
        pinned = resolve(self.catalog, locked, self.upgrade, self.hub)
        after = dump_lock(item.model for item in pinned)
        if after != before and not self.module.check_mode:
            self._write(after)
        names = {item.model.name for item in pinned}
        return {
            "changed": after != before,
            "dest": self.dest,
            "models": [
                {
                    "name": item.model.name,
                    "commit": item.model.commit,
                    "action": item.action,
                    "files": len(item.model.files),
                    "bytes": sum(file.size for file in item.model.files),
                }
                for item in pinned
            ]
            + [
                {"name": model.name, "commit": None, "action": "removed", "files": 0, "bytes": 0}
                for model in locked
                if model.name not in names
            ],
            "diff": {
                "before_header": self.dest,
                "after_header": self.dest,
                "before": before,
                "after": after,
            },
        }

    def _read(self) -> str:
        try:
            with open(self.dest, encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise InvalidInput(f"{self.dest}: not a text file; restore it from version control") from None

    def _write(self, content: str) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        try:
            self.module.atomic_move(temporary, self.dest)
        except Exception as error:  # it raises no narrower one
            raise InvalidInput(f"{self.dest}: expected a place for the lock, but {error.__cause__ or error}") from None


def _given(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without the keys that were left out; Ansible sets them to None."""
    return {key: value for key, value in entry.items() if value is not None}


def parse_upgrade(value: object) -> Upgrade:
    """Return a switch, or the names of models, as YAML or a command line gives them."""
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if isinstance(value, (bool, str)):
        try:
            return bool(boolean(value))
        except TypeError:
            return tuple(name.strip() for name in str(value).split(",") if name.strip())
    raise InvalidInput(f"upgrade: expected true, false or a list of names, found {value!r}")


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **HUB_ARGUMENTS,
            "catalog": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "repo_id": {"type": "str", "required": True},
                    "revision": {"type": "str", "default": "main"},
                    "include": {"type": "list", "elements": "str"},
                    "exclude": {"type": "list", "elements": "str"},
                    "allow_pickle": {"type": "bool", "default": False},
                    "allow_code": {"type": "bool", "default": False},
                    "requires": {"type": "dict"},
                    "smoke": {"type": "dict"},
                    "convert": {"type": "dict"},
                },
            },
            "dest": {"type": "path", "required": True},
            "upgrade": {"type": "raw", "default": False},
            "timeout": {"type": "float", "default": 300.0},
        },
        supports_check_mode=True,
    )
    if IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("huggingface_hub"), exception=str(IMPORT_ERROR))

    run_module(module, lambda cancelled: LockManager(module, cancelled).run())


if __name__ == "__main__":
    main()
