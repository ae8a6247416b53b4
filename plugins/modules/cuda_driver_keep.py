#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_driver_keep
short_description: Keep the package files that the way back from a change of the NVIDIA driver needs
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Has the files of exactly the packages that a change replaces or removes in a directory of this host, before the
    change, so that going back cannot fail because a repository does not have them any more or does not answer. The role
    P(gpufleet.models.cuda_driver#role) runs it.
  - The files come from the package manager's cache, where they are still there and whole, or from the repositories,
    whose signatures the package manager verifies. When one cannot be had, the module fails, and no package was changed.
extends_documentation_fragment:
  - gpufleet.models.attributes
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  path:
    description:
      - The directory on the host.
    type: path
    default: /var/lib/gpufleet/cuda_driver_packages
  manager:
    description:
      - The package manager.
    type: str
    choices: [apt, dnf]
    required: true
  packages:
    description:
      - The packages that are certainly replaced, with their versions.
    type: dict
    default: {}
  command:
    description:
      - The command of apt that is going to make the change. It is simulated, to learn what else it would replace.
    type: list
    elements: str
    default: []
  before:
    description:
      - All packages of before the change with their versions, for those that only O(command) tells of.
    type: dict
    default: {}
  prune:
    description:
      - Remove all other files from the directory.
    type: bool
    default: false
  timeout:
    description:
      - Seconds that all of it may take.
    type: float
    default: 3600.0
requirements:
  - Python 3.9 or later on the host; with V(dnf), its plugin C(download).
"""

EXAMPLES = r"""
- name: Keep what an upgrade is going to replace
  gpufleet.models.cuda_driver_keep:
    manager: apt
    packages:
      nvidia-driver-cuda: 580.82.07-1
      libcuda1: 580.82.07-1
"""

RETURN = r"""
kept:
  description: The files that a way back needs.
  returned: success
  type: list
  elements: str
changes:
  description: The names of all packages that O(command) would install, replace or remove.
  returned: success
  type: list
  elements: str
"""

import os
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._driver_kept import CACHES, Kept, changes, keep, needed
from ansible_collections.gpufleet.models.plugins.module_utils._errors import DriverError
from ansible_collections.gpufleet.models.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.models.plugins.module_utils._process import Ended, Limit, run_program


def secure(params: dict[str, Any], cancelled: threading.Event) -> dict[str, Any]:
    """Keep what a change replaces, and return the module's result."""
    kept = Kept(params["path"], params["manager"], os.uname().machine)
    limit = Limit.of(params["timeout"], cancelled)
    environ = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}

    def run(command: list[str], directory: str) -> Ended:
        return run_program(command, environ, directory, limit)

    names = changes(run([*params["command"], "--simulate"], "/")) if params["command"] else []
    packages = {**params["packages"], **needed(names, params["before"])}
    before = _listing(kept.directory)
    try:
        if packages:
            keep(kept, packages, run, CACHES.get(kept.manager))
        if params["prune"] and os.path.isdir(kept.directory):
            kept.prune(packages)
    except OSError as error:
        where = error.filename or kept.directory
        raise DriverError(f"{where}: {error.strerror or error}; no package was changed") from None
    return {
        "changed": _listing(kept.directory) != before,
        "kept": [kept.find(name, version) for name, version in sorted(packages.items())],
        "changes": names,
    }


def _listing(directory: str) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/var/lib/gpufleet/cuda_driver_packages"},
            "manager": {"type": "str", "choices": ["apt", "dnf"], "required": True},
            "packages": {"type": "dict", "default": {}},
            "command": {"type": "list", "elements": "str", "default": []},
            "before": {"type": "dict", "default": {}},
            "prune": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 3600.0},
        },
    )
    run_module(module, lambda cancelled: secure(module.params, cancelled))


if __name__ == "__main__":
    main()
