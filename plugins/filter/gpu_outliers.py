# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare the GPUs of several hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.gpufleet.models.plugins.module_utils._gpu_fleet import find_gpu_outliers

DOCUMENTATION = r"""
name: gpu_outliers
short_description: Name the GPUs that are slower than others of their name, or multiply otherwise
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Compares the figures of each GPU with their median over all GPUs of the same name, where there are three or more.
    One that multiplies, or copies within its memory, more than 10 % slower is named, and one that copies from or to its
    host more than 40 % slower, as with a link that lacks lanes.
  - Compares the exact products of all GPUs. Where no product is that of most of them, all are named.
options:
  _input:
    description: The C(gpus) that M(gpufleet.models.gpu_check) returned for each host.
    type: dict
    required: true
seealso:
  - module: gpufleet.models.gpu_check
"""

EXAMPLES = r"""
- name: Name the GPUs that are behind the others
  ansible.builtin.debug:
    msg: "{{ {'gpu-1': checked_1.gpus, 'gpu-2': checked_2.gpus} | gpufleet.models.gpu_outliers }}"
"""

RETURN = r"""
_value:
  description: The sentences about each host with such a GPU.
  type: dict
  sample:
    gpu-2:
      - "GPU 3 (NVIDIA L4): tflops: expected at least 51.3 TFLOP/s, of 57.0, the median of 16 GPUs, found 30.8"
"""


def gpu_outliers(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return the sentences about each host with a GPU that differs from the others."""
    try:
        return find_gpu_outliers(results)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"gpu_outliers: expected the gpus of gpu_check by host: {error}") from None


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return it by its name."""
        return {"gpu_outliers": gpu_outliers}
