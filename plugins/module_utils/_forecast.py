# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that are too large for a host's GPUs, before a byte of their weights is received: their headers tell."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ._errors import HubError, TransferError
from ._gpu_requirements import find_memory, parse_requirements
from ._http import ConnectionLost
from ._lockfile import File, Model
from ._part import receive_part
from ._plan import Plan
from ._smoke_memory import LONGEST_HEADER, Weights, count_values, parse_header, stored_dtype
from ._smoke_model import weight_files
from ._smoke_spec import parse_smoke
from ._source import Hub, Source, Unavailable


def too_large(
    plan: Plan, models: Iterable[Model], facts: Mapping[str, Any], hub: Hub, cancelled: threading.Event
) -> Iterator[str]:
    """Yield a sentence for each model whose weights no GPU of a host has the memory for, whatever their type.

    Only models that are received as a whole are looked at; the smoke test looks at the others.

    :param models: Those of the plan that require a GPU.
    :param facts: What :func:`gather_facts` returned there.
    """
    memory = find_memory(facts)
    received = {(need.model.name, need.file.path) for need in plan.fetch}
    for model in models:
        weights = weight_files(file.path for file in model.files)
        files = [file for file in model.files if file.path in weights]
        if memory is None or not files or not all((model.name, file.path) in received for file in files):
            continue
        headers = [_read_header(model, file, hub, cancelled) for file in files]
        if all(header is not None for header in headers):
            yield from _compare(model, [header for header in headers if header is not None], memory)


def _compare(model: Model, headers: list[Mapping[str, Any]], memory: int) -> Iterator[str]:
    required = parse_requirements(f"{model.name}.requires", model.requires)
    gpus = required.gpus if required else 1
    weights: Weights = count_values(headers)
    dtypes = parse_smoke(f"{model.name}.smoke", model.smoke).dtypes or (stored_dtype(headers),)
    needs = {dtype: weights.memory_mib(dtype) for dtype in dtypes}
    if min(needs.values()) > memory * gpus:
        told = ", ".join(f"{mib} MiB in {dtype}" for dtype, mib in needs.items())
        there = f"{gpus} GPUs of" if gpus > 1 else "a GPU has"
        yield f"{model.name}: its weights need {told}, and {there} at most {memory} MiB"


def _read_header(model: Model, file: File, hub: Hub, cancelled: threading.Event) -> Mapping[str, Any] | None:
    """Return the header of a safetensors file; None where it cannot be had, which receiving the file will explain."""
    source = Source(hub, hub.file_url(model.repo_id, model.commit, file.path), file.size)
    try:
        prefix = receive_part(source, 0, min(8, file.size), cancelled)
        (length,) = struct.unpack("<Q", prefix or b"")
        if length > min(LONGEST_HEADER, file.size - 8):
            return None
        return parse_header(receive_part(source, 8, 8 + length, cancelled) or b"")
    except (HubError, TransferError, Unavailable, ConnectionLost, TimeoutError, struct.error, ValueError):
        return None
