#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_env
short_description: Build, serve and remove Python environments
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Makes a host have exactly the Python packages that a lock names, in an environment that is built beside the one in
    use, tested there, and then served by one atomic switch of a link.
  - Every file is checked against the SHA-256 digests of the lock. Whatever fails, the environment that is served
    stays as it is.
  - When the wanted environment is served already, nothing is run and nothing is asked.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.packages
attributes:
  check_mode:
    support: full
    details: Reports the plan that the real run carries out. What an index or a package would refuse shows only there.
  diff_mode:
    support: full
    details: Shows the locked packages, before and after.
  idempotent:
    support: partial
    details: Going back to V(previous) goes back one further environment each time.
options:
  path:
    description:
      - Where the environment is found, an absolute path. It is a symbolic link; what it points to lies beside it, in
        the directory with C(.d) after its name, and so do a cache of packages and the Pythons of O(managed_python).
      - Anything else that is there already is left alone, and is an error. So is a place that another account could
        change, as what lies there is run with the rights of the task.
    type: path
    default: /opt/models/env
  state:
    description:
      - V(present) builds and serves the environment of O(requirements), or serves the one that O(environment) names.
      - V(absent) removes the link, all environments and the cache.
    type: str
    choices: [present, absent]
    default: present
  requirements:
    description:
      - The text of the lock, as M(gpufleet.models.python_lock) makes it. Each entry is an exact version with SHA-256
        digests.
      - Either this or O(environment) is required for O(state=present).
    type: str
  environment:
    description:
      - The name of an existing environment, or V(previous) for the one that was served before the current one.
    type: str
  python:
    description:
      - The Python to use, from 3.10 on. A version such as V(3.12), or the absolute path of an interpreter.
    type: str
    default: "3.12"
  managed_python:
    description:
      - Use a Python that C(uv) downloads and keeps for itself, and none of the host's.
    type: bool
    default: false
  source_builds:
    description:
      - Allow packages that have no wheel for this host to be built there. This runs their build programs, with what
        these demand and no lock names, and may need a compiler and headers.
    type: bool
    default: false
  imports:
    description:
      - Names of modules that must be importable before the environment is served.
      - Where torch is built for CUDA and a driver is loaded, it must also suit the driver, and find the GPUs.
    type: list
    elements: str
    default: []
  keep:
    description:
      - How many environments to keep, with the one that is served; at least 1.
    type: int
    default: 2
  clean_cache:
    description:
      - Remove the cache of packages, after an environment was built or when there is nothing to build.
    type: bool
    default: false
  lock_timeout:
    description:
      - Seconds to wait while another process works on the same environments.
    type: float
    default: 60.0
seealso:
  - module: gpufleet.models.python_lock
"""

EXAMPLES = r"""
- name: Serve what the lock names
  gpufleet.models.python_env:
    path: /opt/models/env
    requirements: "{{ lookup('ansible.builtin.file', 'python.lock.txt') }}"
    python: "3.12"
    imports: [torch, transformers]

- name: The same without any network, from a directory of wheels on the host
  gpufleet.models.python_env:
    path: /opt/models/env
    requirements: "{{ lookup('ansible.builtin.file', 'python.lock.txt') }}"
    find_links: [/mnt/wheels]
    offline: true

- name: Go back
  gpufleet.models.python_env:
    path: /opt/models/env
    environment: previous

- name: Remove everything
  gpufleet.models.python_env:
    path: /opt/models/env
    state: absent
"""

RETURN = r"""
msg:
  description: What was done, or would be, in a few words.
  returned: always
  type: str
  sample: build and serve environment 0f3c2a9be1d47765
path:
  description: The link.
  returned: success
  type: str
  sample: /opt/models/env
digest:
  description: The digest of what the environment is made from. V(null) when everything is removed.
  returned: success
  type: str
  sample: 0f3c2a9be1d47765
environment:
  description: The environment's name; V(null) in check mode when it does not exist yet.
  returned: success
  type: str
  sample: 0f3c2a9be1d47765
directory:
  description: Where the environment lies; V(null) when it does not exist.
  returned: success
  type: str
  sample: /opt/models/env.d/0f3c2a9be1d47765
previous_environment:
  description: The name of the environment that was served before; V(null) when there was none.
  returned: success
  type: str
  sample: 71bb02dd63a1c9e4
python_version:
  description: The environment's Python; V(null) when it does not exist.
  returned: success
  type: str
  sample: 3.12.3
packages:
  description: The versions of the packages that are in it, by name; V(null) when it does not exist.
  returned: success
  type: dict
  sample: {numpy: 2.4.6, torch: 2.13.0+cu128}
torch_cuda:
  description: The CUDA version that its torch was built for; V(null) for a CPU build, or without torch.
  returned: success
  type: str
  sample: "12.8"
freed_bytes:
  description:
    - How much of the disk is free again, or would be, after O(state=absent) or O(clean_cache=true). Files that an
      environment shares with the cache are free when the last one is gone.
    - V(null) when there was nothing to remove.
  returned: success, with O(requirements) or O(state=absent)
  type: int
  sample: 1488924672
interpreter:
  description: Where the host has the wanted Python; V(null) when it has none, or with O(managed_python).
  returned: success, with O(requirements)
  type: str
  sample: /usr/bin/python3.12
"""

import contextlib
import os
import platform
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._build import (
    EnvironmentPlan,
    Wanted,
    carry_out_plan,
    plan_environment,
)
from ansible_collections.gpufleet.models.plugins.module_utils._cuda import driver_problem, loaded_driver
from ansible_collections.gpufleet.models.plugins.module_utils._environments import (
    CACHE,
    PYTHONS,
    Environments,
    served,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import (
    InvalidInput,
    ModelsError,
    PythonError,
    StoreError,
)
from ansible_collections.gpufleet.models.plugins.module_utils._imports import try_environment
from ansible_collections.gpufleet.models.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.models.plugins.module_utils._process import Limit
from ansible_collections.gpufleet.models.plugins.module_utils._requirements import (
    environment_digest,
    locked_cuda,
    parse_requirements,
)
from ansible_collections.gpufleet.models.plugins.module_utils._trust import require_trusted
from ansible_collections.gpufleet.models.plugins.module_utils._uv import (
    PACKAGE_ARGUMENTS,
    Uv,
    find_interpreter,
    find_uv,
    parse_python,
    source_of,
)
from ansible_collections.gpufleet.models.plugins.module_utils._writer import only_writer


class EnvironmentManager:
    """Brings the environment behind one link to the wanted state."""

    def __init__(self, module: AnsibleModule, cancelled: threading.Event) -> None:
        params = module.params
        self.check_mode: bool = module.check_mode
        self.params = params
        self.cancelled = cancelled
        self.link: str = params["path"].rstrip("/")
        if not os.path.isabs(self.link) or "\0" in self.link:
            raise InvalidInput(f"path: expected an absolute path, found {params['path']!r}")
        if params["keep"] < 1:
            raise InvalidInput(f"keep: expected at least 1, found {params['keep']}")
        self.imports = parse_imports(params["imports"])
        self.source = source_of(params)
        self.limit = Limit.of(params["timeout"], cancelled)
        self.driver = loaded_driver()

    def run(self) -> dict[str, Any]:
        """Do what the arguments ask for and return the module's result."""
        os.umask(0o022)  # others must be able to use what is made here
        if self.params["state"] == "absent":
            return self._remove()
        work = self._provide if self.params["environment"] is None else self._serve
        before = served(self.link)
        try:
            return work()
        except ModelsError as error:
            kept = "nothing" if before is None else f"environment {before}"
            raise type(error)(f"{error}; {kept} is served as before") from None

    def _provide(self) -> dict[str, Any]:
        """Serve an environment of the locked packages, and build it first where there is none."""
        wanted = self._wanted()
        with Environments.open(self.link) or contextlib.nullcontext() as environments:
            plan = plan_environment(self.link, environments, wanted)
            if plan.changed:
                self._require_own_place()
                _require(driver_problem(locked_cuda(wanted.pins), self.driver))
            freed = self._cache_bytes(environments)
            if self.check_mode or not (plan.changed or freed is not None):
                return self._result_of(plan, environments, plan.use, freed)
        if plan.changed:
            find_uv(self.params["uv"])  # before anything is made
        with Environments.create(self.link) as environments, self._writer(environments) as descriptor:
            # Another writer may have been faster.
            plan = plan_environment(self.link, environments, wanted)
            name = plan.use
            if plan.changed:
                self._require_own_place()
                uv = self._uv(environments, descriptor)
                name = carry_out_plan(plan, environments, uv, self.driver, self.params["keep"])
            freed = self._cache_bytes(environments)
            if freed is not None:
                with contextlib.suppress(OSError, StoreError):  # the next run removes what is left of it
                    environments.root.remove(CACHE)
            return self._result_of(plan, environments, name, freed)

    def _require_own_place(self) -> None:
        """Require that nobody else can change what is run here."""
        require_trusted(Environments.directory_of(self.link))
        if os.path.isabs(self.params["uv"]):
            require_trusted(self.params["uv"])

    def _cache_bytes(self, environments: Environments | None) -> int | None:
        """Return how much removing the cache frees, or None when it stays or there is none."""
        if environments is None or not self.params["clean_cache"] or environments.root.stat(CACHE) is None:
            return None
        return environments.freed_bytes([CACHE])

    def _wanted(self) -> Wanted:
        managed: bool = self.params["managed_python"]
        python = parse_python(self.params["python"], managed)
        requirements: str = self.params["requirements"]
        pins = parse_requirements(requirements)
        digest = environment_digest(pins, python, managed, platform.machine())
        return Wanted(digest, pins, requirements, python, self.imports)

    def _uv(self, environments: Environments, descriptor: int) -> Uv:
        executable = find_uv(self.params["uv"])
        root = environments.root
        variables = {"UV_NO_MANAGED_PYTHON": "1", "UV_PYTHON_DOWNLOADS": "never"}
        if self.params["managed_python"]:
            variables = {"UV_MANAGED_PYTHON": "1", "UV_PYTHON_DOWNLOADS": "automatic"}
            variables["UV_PYTHON_INSTALL_DIR"] = root.join(PYTHONS)
        builds: bool = self.params["source_builds"]
        return Uv(executable, self.source, self.limit, root.path, root.join(CACHE), variables, (descriptor,), builds)

    def _result_of(
        self, plan: EnvironmentPlan, environments: Environments | None, name: str | None, freed: int | None
    ) -> dict[str, Any]:
        managed = self.params["managed_python"]
        return {
            "changed": plan.changed or freed is not None,
            "msg": plan.summary if freed is None else f"{plan.summary}; the cache is removed",
            "freed_bytes": freed,
            "interpreter": None if managed else find_interpreter(plan.wanted.python),
            "diff": self._diff(plan.before, tuple(map(str, plan.wanted.pins))),
            **self._facts(environments, name, plan.previous),
            "digest": plan.wanted.digest,
        }

    def _facts(self, environments: Environments | None, name: str | None, previous: str | None) -> dict[str, Any]:
        """Return what the result says of an environment."""
        manifest = environments.manifest(name) if environments and name else None
        return {
            "path": self.link,
            "digest": manifest and manifest.digest,
            "environment": name,
            "directory": environments.path(name) if environments and name else None,
            "previous_environment": previous,
            "python_version": manifest and manifest.python_version,
            "packages": manifest and manifest.packages,
            "torch_cuda": manifest and manifest.torch_cuda,
        }

    def _diff(self, before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, str]:
        return {
            "before_header": self.link,
            "after_header": self.link,
            "before": "".join(f"{pin}\n" for pin in before),
            "after": "".join(f"{pin}\n" for pin in after),
        }

    def _serve(self) -> dict[str, Any]:
        """Serve an existing environment, if it looks whole."""
        wanted: str = self.params["environment"]
        with self._existing() as environments, self._writer(environments) as descriptor:
            current = environments.current()
            name = environments.previous() if wanted == "previous" else wanted
            if name not in environments.names():
                known = ", ".join(environments.names()) or "none"
                raise InvalidInput(f"environment {name} is not in {environments.root.path}; there are: {known}")
            problem, manifest = environments.problem(name), environments.manifest(name)
            if problem is not None or manifest is None:
                raise PythonError(f"environment {name} cannot be served: {problem}; build it again from its lock")
            require_trusted(environments.path(name))
            if not self.check_mode:
                directory, cuda = environments.path(name), manifest.torch_cuda
                try_environment(directory, self.imports, cuda, self.driver, self.limit, (descriptor,))
            before = environments.manifest(current) if current else None
            changed = name != current
            if changed and not self.check_mode:
                environments.activate(name, back=name in environments.history())
            return {
                "changed": changed,
                "msg": f"serve environment {name}" if changed else f"environment {name} is served already",
                "diff": self._diff(before.pins if before else (), manifest.pins),
                **self._facts(environments, name, current),
            }

    def _remove(self) -> dict[str, Any]:
        """Remove the link and everything behind it."""
        current = served(self.link)
        environments = Environments.open(self.link)
        freed = None
        if environments is not None:
            with environments, self._writer(environments):
                freed = environments.freed_bytes(environments.root.names())
                if not self.check_mode:
                    environments.remove_all()
        elif current is not None and not self.check_mode:
            os.unlink(self.link)
        changed = environments is not None or current is not None
        return {
            "changed": changed,
            "msg": f"remove {self.link} with everything behind it" if changed else f"{self.link} is not there",
            "freed_bytes": freed,
            **self._facts(None, None, current),
        }

    def _existing(self) -> Environments:
        environments = Environments.open(self.link)
        if environments is None:
            raise InvalidInput(f"{self.link} has no environments, so there is none to go to")
        return environments

    def _writer(self, environments: Environments) -> contextlib.AbstractContextManager[int]:
        if self.check_mode:
            return contextlib.nullcontext(-1)
        return only_writer(environments.root, "python_env", self.params["lock_timeout"], self.cancelled)


def parse_imports(names: list[str]) -> tuple[str, ...]:
    """Return the names of modules.

    :raises InvalidInput: When one is no such name.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InvalidInput(f"imports: expected names of modules, found {name!r}")
    return tuple(names)


def _require(problem: str | None) -> None:
    if problem is not None:
        raise PythonError(problem)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **PACKAGE_ARGUMENTS,
            "path": {"type": "path", "default": "/opt/models/env"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "requirements": {"type": "str"},
            "environment": {"type": "str"},
            "python": {"type": "str", "default": "3.12"},
            "managed_python": {"type": "bool", "default": False},
            "source_builds": {"type": "bool", "default": False},
            "imports": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 2},
            "clean_cache": {"type": "bool", "default": False},
            "lock_timeout": {"type": "float", "default": 60.0},
        },
        mutually_exclusive=[("requirements", "environment")],
        required_if=[("state", "present", ("requirements", "environment"), True)],
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: EnvironmentManager(module, cancelled).run())


if __name__ == "__main__":
    main()
