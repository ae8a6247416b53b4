# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare what the same models put out on several hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_fleet import find_outliers
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_judge import Golden

DOCUMENTATION = r"""
name: smoke_outliers
short_description: Name the hosts on which models put out something else than on the other hosts
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Compares the outputs of each model, of one commit and computed in one type, with their median over all hosts.
  - Two hosts that differ are both named, as nobody can tell which of them is right; a golden file can.
options:
  _input:
    description:
      - The C(models) that M(gpufleet.models.model_smoke) returned for each host, with
        O(gpufleet.models.model_smoke#module:outputs) set.
    type: dict
    required: true
seealso:
  - module: gpufleet.models.model_smoke
"""

EXAMPLES = r"""
- name: Name the hosts that compute something else
  ansible.builtin.debug:
    msg: "{{ {'gpu-1': smoke_1.models, 'gpu-2': smoke_2.models} | gpufleet.models.smoke_outliers }}"
"""

RETURN = r"""
_value:
  description: The sentences about each host that differs from the others.
  type: dict
  sample:
    gpu-2: ["all-MiniLM-L6-v2: expected a cosine of at least 0.9995 to the median of 3 hosts, found 0.867000"]
"""


def smoke_outliers(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return the sentences about each host that differs from the others."""
    try:
        goldens = {
            host: [Golden.parse(host, model["golden"]) for model in models if model.get("golden")]
            for host, models in results.items()
        }
    except (AttributeError, TypeError, InvalidInput) as error:
        raise AnsibleFilterError(f"smoke_outliers: expected the models of model_smoke by host: {error}") from None
    return find_outliers(goldens)


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return it by its name."""
        return {"smoke_outliers": smoke_outliers}
