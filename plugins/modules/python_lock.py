#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_lock
short_description: Lock Python packages to exact versions and SHA-256 digests
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Resolves requirements once, for all Linux hosts of a fleet, and writes exact versions with the digests of all
    their files, to be reviewed and committed.
  - Like with any package manager's lock, what is locked keeps its version until it is upgraded, or no longer fits.
  - Run it on the control node.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.packages
attributes:
  check_mode:
    support: full
    details: Asks the index like the real run does, and writes nothing.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  requirements:
    description:
      - What is wanted, each as in C(requirements.txt), without options.
    type: list
    elements: str
    required: true
  dest:
    description:
      - The lock file.
    type: path
    required: true
  python:
    description:
      - The Python of the hosts, from 3.10 on. V(3.12) is that version alone, V(3.12+) also all later ones, for hosts
        that differ.
    type: str
    default: "3.12"
  sources:
    description:
      - Packages that come from an index of their own and from no other one, such as torch for a version of CUDA.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description:
          - The index.
        type: str
        required: true
      packages:
        description:
          - Names of the packages.
        type: list
        elements: str
        required: true
  upgrade:
    description:
      - V(false) keeps versions that still fit, V(true) takes the newest ones, a list of names does so for these
        packages.
    type: raw
    default: false
seealso:
  - module: gpufleet.models.python_env
"""

EXAMPLES = r"""
- name: Lock what all hosts need
  gpufleet.models.python_lock:
    requirements: [torch, transformers, "fastapi >= 0.120"]
    dest: "{{ inventory_dir }}/python.lock.txt"
    python: "3.12"
    sources:
      - url: https://download.pytorch.org/whl/cu128
        packages: [torch, torchvision]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
dest:
  description: The lock file.
  returned: success
  type: str
  sample: /srv/fleet/inventories/production/python.lock.txt
packages:
  description: What became of each package.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The package's name.
      type: str
    before:
      description: Its version in the lock before; V(null) when it was not there.
      type: str
    after:
      description: Its version; V(null) when it is no longer there.
      type: str
    action:
      description: One of V(added), V(updated), V(removed), V(unchanged).
      type: str
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.models.plugins.module_utils._process import Limit
from ansible_collections.gpufleet.models.plugins.module_utils._requirements import (
    Pythons,
    compare,
    parse_requirements,
    project_file,
)
from ansible_collections.gpufleet.models.plugins.module_utils._uv import (
    PACKAGE_ARGUMENTS,
    Uv,
    find_uv,
    source_of,
)

_HEADER = """\
# Locked by gpufleet.models.python_lock, for Python {pythons} on Linux.
# Change the requirements and lock again, not this file.
"""
_NAME = "python.lock.txt"


class PythonLockManager:
    """Brings one lock file up to date with requirements."""

    def __init__(self, module: AnsibleModule, cancelled: threading.Event) -> None:
        self.module = module
        params = module.params
        self.dest: str = params["dest"]
        self.pythons = Pythons.parse(params["python"])
        self.upgrade = parse_upgrade(params["upgrade"])
        self.source = source_of(params)
        self.project = project_file(params["requirements"], self.pythons, params["sources"])
        self.uv = find_uv(params["uv"])
        self.limit = Limit.of(params["timeout"], cancelled)

    def run(self) -> dict[str, Any]:
        """Resolve the requirements, replace the lock file where it differs, and return the module's result."""
        before = self._read()
        pins = parse_requirements(before) if before else ()
        after = self._resolve(before)
        if after != before and not self.module.check_mode:
            self._write(after)
        return {
            "changed": after != before,
            "dest": self.dest,
            "packages": compare(pins, parse_requirements(after)),
            "diff": {"before_header": self.dest, "after_header": self.dest, "before": before, "after": after},
        }

    def _resolve(self, before: str) -> str:
        with tempfile.TemporaryDirectory(dir=self.module.tmpdir) as directory:
            lock = os.path.join(directory, _NAME)
            if before:
                _write_text(lock, before)  # whose versions it keeps
            _write_text(os.path.join(directory, "pyproject.toml"), self.project)
            # The project file is configuration that shall be read.
            variables = {"UV_NO_CONFIG": "0", "UV_PYTHON_DOWNLOADS": "never"}
            uv = Uv(self.uv, self.source, self.limit, directory, None, variables)
            options = ["--universal", "--generate-hashes", "--no-header", "--python-version", self.pythons.oldest]
            options += ["--python", sys.executable, "--output-file", _NAME, *self.upgrade]
            uv.run("pip", "compile", "pyproject.toml", *options)
            with open(lock, encoding="utf-8") as stream:
                text = re.sub(r"\A(#.*\n)+", "", stream.read())
            return _HEADER.format(pythons=self.pythons) + self.pythons.simplified(text)

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
        os.close(descriptor)
        _write_text(temporary, content)
        try:
            self.module.atomic_move(temporary, self.dest)
        except Exception as error:  # it raises no narrower one
            raise InvalidInput(f"{self.dest}: expected a place for the lock, but {error.__cause__ or error}") from None


def _write_text(path: str, content: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(content)


def parse_upgrade(value: object) -> list[str]:
    """Return what uv is told for a switch or names of packages, as YAML or a command line gives them."""
    names = value
    if isinstance(value, (bool, str)):
        with contextlib.suppress(TypeError):
            return ["--upgrade"] if boolean(value) else []
        names = [name.strip() for name in str(value).split(",")]
    if not isinstance(names, list) or not all(
        isinstance(name, str) and re.match("[A-Za-z0-9]", name) for name in names
    ):
        raise InvalidInput(f"upgrade: expected true, false or a list of names, found {value!r}")
    return [argument for name in names for argument in ("--upgrade-package", name)]


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **PACKAGE_ARGUMENTS,
            "requirements": {"type": "list", "elements": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "python": {"type": "str", "default": "3.12"},
            "sources": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "url": {"type": "str", "required": True},
                    "packages": {"type": "list", "elements": "str", "required": True},
                },
            },
            "upgrade": {"type": "raw", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: PythonLockManager(module, cancelled).run())


if __name__ == "__main__":
    main()
