# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look before anything is changed: everything that would keep a host from holding and running its models."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ._cuda import Driver, driver_problem
from ._environments import torch_cuda
from ._errors import HubError, StoreError, TransferError
from ._forecast import too_large
from ._gpu_facts import describe, gather_facts
from ._gpu_requirements import unmet
from ._http import ConnectionLost
from ._part import receive_part
from ._plan import Plan
from ._source import Hub, Source, Unavailable


def find_problems(
    plan: Plan, root: str, hub: Hub, venv: str, check_mode: bool, cancelled: threading.Event
) -> Iterator[str]:
    """Yield a sentence for everything that is missing. Nothing is changed.

    :param venv: The environment with nvidia-ml-py and, where it is wanted, torch.
    :param check_mode: A host whose environment has still to be made cannot tell its GPUs yet.
    """
    try:
        plan.require_space(root)
    except StoreError as error:
        yield str(error)
    unreachable = list(_unreachable(plan, hub, cancelled))
    yield from unreachable
    yield from _unfit(plan, None if unreachable else hub, venv, check_mode, cancelled)


def _unfit(plan: Plan, hub: Hub | None, venv: str, check_mode: bool, cancelled: threading.Event) -> Iterator[str]:
    """Yield what the models require of the GPUs and is not there.

    :param hub: Where to ask for the headers of weights; None when it cannot be reached.
    """
    demanding = [model for model in plan.models if model.requires is not None]
    if not demanding:
        return
    facts = gather_facts(venv)
    if not facts["available"]:
        if not (check_mode and facts["problems"][0]["reason"] == "binding_missing"):
            names = ", ".join(model.name for model in demanding)
            yield f"{names}: a GPU is required, and {describe(facts)}"
        return
    yield from unmet(demanding, facts)
    if hub is not None:
        yield from too_large(plan, demanding, facts, hub, cancelled)
    too_old = driver_problem(torch_cuda(venv), Driver(facts["driver_version"], len(facts["gpus"])))
    if too_old:
        yield f"{venv}: {too_old}"


def _unreachable(plan: Plan, hub: Hub, cancelled: threading.Event) -> Iterator[str]:
    """Ask for one byte of each repository that something is to be received from; yield why that fails.

    It is a byte of the largest file, which is the one that a CDN has.
    """
    largest = {}
    for need in sorted(plan.fetch, key=lambda need: need.file.size):
        if need.file.size:
            largest[need.model.repo_id, need.model.commit] = need
    for (repo_id, commit), need in sorted(largest.items()):
        source = Source(hub, hub.file_url(repo_id, commit, need.file.path), need.file.size)
        try:
            receive_part(source, 0, 1, cancelled)
        except (HubError, TransferError) as error:
            yield f"{hub.endpoint}: {need.label} cannot be received: {error}"
        except (Unavailable, ConnectionLost, TimeoutError) as error:
            yield f"{hub.endpoint}: {need.label} cannot be received: {error}"
            return  # neither will the others be
