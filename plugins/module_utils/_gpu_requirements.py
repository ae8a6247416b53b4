# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a model requires of a host's GPUs, and what of it is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._gpu_facts import describe, working_parts
from ._lockfile import Model, check_mapping, is_count, require_keys, unexpected

_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})")


@dataclass(frozen=True)
class Requirements:
    """So many GPUs, each with at least that much memory in MiB and that compute capability."""

    gpus: int = 1
    gpu_memory_mib: int = 0
    compute_capability: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        limits = [f"{self.gpu_memory_mib} MiB of memory"] if self.gpu_memory_mib else []
        limits += [f"compute capability {_dotted(self.compute_capability)}"] if any(self.compute_capability) else []
        count = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        return f"{count} with at least {' and '.join(limits)}" if limits else count


@dataclass(frozen=True)
class Device:
    """What a program can have for itself: a GPU, or a MIG device of one."""

    name: str
    memory_mib: int | None  # not told where it is shared with the processor
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        memory = "unknown memory" if self.memory_mib is None else f"{self.memory_mib} MiB"
        return f"{self.name} ({memory}, {_dotted(self.compute_capability)})"

    def meets(self, required: Requirements) -> bool:
        """Whether it is enough, as far as that can be told."""
        enough = self.memory_mib is None or self.memory_mib >= required.gpu_memory_mib
        return enough and self.compute_capability >= required.compute_capability


def parse_requirements(where: str, value: object) -> Requirements | None:
    """Check what an entry of the catalog requires.

    :raises InvalidInput: With the place, what was expected and what was found.
    """
    if check_mapping(where, value) is None:
        return None
    document = require_keys(where, value, set(), {"gpus", "gpu_memory_mib", "compute_capability"})
    for key, least in (("gpus", 1), ("gpu_memory_mib", 0)):
        if not is_count(document.get(key, 1)) or document.get(key, 1) < least:
            raise unexpected(f"{where}.{key}", f"a whole number from {least} on", document[key])
    capability = document.get("compute_capability", "0.0")
    # YAML reads an unquoted 8.0 as a number.
    match = _VERSION.fullmatch(str(capability)) if isinstance(capability, (str, float)) else None
    if match is None:
        raise unexpected(f"{where}.compute_capability", "a version like '8.0'", capability)
    return Requirements(
        document.get("gpus", 1), document.get("gpu_memory_mib", 0), (int(match.group(1)), int(match.group(2)))
    )


def unmet(models: Iterable[Model], facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each model whose requirements a host does not meet.

    :param facts: What :func:`gather_facts` returned there.
    """
    devices = list(_devices(facts))
    sentences = []
    for model in models:
        required = parse_requirements(f"{model.name}.requires", model.requires)
        if required is None:
            continue
        fitting = [device for device in devices if device.meets(required)]
        if len(fitting) < required.gpus:
            there = ", ".join(map(str, devices)) or "no GPU that works"
            found = f"found {there}" if not fitting else f"only {len(fitting)} of {there}"
            broken = f" ({describe(facts)})" if facts["problems"] else ""
            sentences.append(f"{model.name}: expected {required}, {found}{broken}")
    return sentences


def find_memory(facts: Mapping[str, Any]) -> int | None:
    """Return the memory in MiB of the largest GPU, or MIG device, that works; None where it cannot be told.

    :param facts: What :func:`gather_facts` returned.
    """
    sizes = [device.memory_mib for device in _devices(facts)]
    return max((size for size in sizes if size is not None), default=None) if None not in sizes else None


def _devices(facts: Mapping[str, Any]) -> Iterator[Device]:
    for gpu, part in working_parts(facts):
        match = _VERSION.fullmatch(gpu["compute_capability"] or "0.0")
        capability = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
        memory = part["memory"] and part["memory"]["total_mib"]
        yield Device(part["name"] or "unnamed GPU", memory, capability)


def _dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)
