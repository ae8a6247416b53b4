# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a lock and what is on disk to an environment that is served: the plan, which does nothing, and the building."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from ._cuda import Driver
from ._environments import Environments, Manifest, installed_packages, served, torch_cuda
from ._errors import PythonError, StoreError
from ._imports import try_environment
from ._process import run_program
from ._requirements import Pin
from ._uv import Uv, oldest_python


@dataclass(frozen=True)
class Wanted:
    """What an environment shall be made from, and what it must be able to import."""

    digest: str
    pins: tuple[Pin, ...]
    requirements: str
    python: str
    imports: tuple[str, ...]


@dataclass(frozen=True)
class EnvironmentPlan:
    """What to do. ``use`` is an environment that exists already; without one, a new one is built.

    ``previous`` is what is served now, ``before`` what that was locked to, and ``damage`` what is wrong with it if it
    should be what is wanted.
    """

    wanted: Wanted
    previous: str | None
    use: str | None
    before: tuple[str, ...]
    damage: str | None

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.use is None or self.use != self.previous

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        digest = self.wanted.digest
        if not self.changed:
            return f"environment {self.use} is served already"
        if self.use is not None:
            return f"serve environment {self.use}"
        if self.damage is not None:
            return f"build and serve environment {digest} again: {self.damage}"
        return f"build and serve environment {digest}"


def plan_environment(link: str, environments: Environments | None, wanted: Wanted) -> EnvironmentPlan:
    """Decide what to do."""
    previous = served(link)
    if environments is None:
        return EnvironmentPlan(wanted, previous, None, (), None if previous is None else "it is gone")
    manifest = previous and environments.manifest(previous)
    return EnvironmentPlan(
        wanted,
        previous,
        environments.whole(wanted.digest, previous),
        manifest.pins if manifest else (),
        environments.problem(previous) if previous and previous[:16] == wanted.digest else None,
    )


def carry_out_plan(plan: EnvironmentPlan, environments: Environments, uv: Uv, driver: Driver | None, keep: int) -> str:
    """Build what has to be built, test it, serve it, remove what is surplus, and return its name.

    :raises ModelsError: When anything fails; what was served is served as before.
    """
    environments.clean()
    if plan.use is None:
        try:
            name = _build(plan.wanted, environments, uv, driver)
        except BaseException:
            environments.clean()
            raise
    else:
        name = plan.use
        cuda = _torch(environments, name)
        try_environment(environments.path(name), plan.wanted.imports, cuda, driver, uv.limit, uv.inherit)
    environments.activate(name)
    for surplus in environments.surplus(keep):
        # What was served until now stays, so that there is a way back whatever else fails.
        if surplus != plan.previous:
            with contextlib.suppress(OSError, StoreError):  # it is out of the way, and the next run removes it
                environments.remove(surplus)
    return name


def _torch(environments: Environments, name: str) -> str | None:
    manifest = environments.manifest(name)
    return manifest.torch_cuda if manifest else None


def _build(wanted: Wanted, environments: Environments, uv: Uv, driver: Driver | None) -> str:
    name, directory = environments.start(wanted.digest)
    uv.make(wanted.python, directory)
    version = _python_version(directory, uv)
    if not oldest_python(version):
        raise PythonError(f"{wanted.python}: expected Python 3.10 or later, found {version}; name another one")
    uv.install(directory, wanted.requirements)
    cuda = torch_cuda(directory)
    try_environment(directory, wanted.imports, cuda, driver, uv.limit, uv.inherit)
    manifest = Manifest(
        wanted.digest,
        tuple(map(str, wanted.pins)),
        version,
        os.path.realpath(os.path.join(directory, "bin", "python")),
        read_configuration(directory).get("uv", ""),
        installed_packages(directory),
        cuda,
    )
    environments.finish(name, manifest)
    return name


def _python_version(directory: str, uv: Uv) -> str:
    """Ask an environment's Python for its version: its configuration may name only a part of it."""
    python = os.path.join(directory, "bin", "python")
    script = "import platform; print(platform.python_version())"
    ended = run_program([python, "-I", "-c", script], os.environ, directory, uv.limit, inherit=uv.inherit)
    if ended.status:
        raise PythonError(f"{python} does not start: {' '.join(ended.errors.split())[-300:]}; name another Python")
    return ended.output.strip()


def read_configuration(directory: str) -> dict[str, str]:
    """Return what pyvenv.cfg says of an environment."""
    with open(os.path.join(directory, "pyvenv.cfg"), encoding="utf-8") as stream:
        lines = [line.partition("=") for line in stream]
    return {key.strip(): value.strip() for key, _separator, value in lines}
