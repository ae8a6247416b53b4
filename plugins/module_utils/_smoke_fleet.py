# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same models on several hosts: which host puts out something else than the others."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

from ._smoke_judge import Golden, min_cosine, smallest_cosine


def find_outliers(outputs: Mapping[str, Iterable[Golden]]) -> dict[str, list[str]]:
    """Return a sentence for each model that a host computes otherwise than the others, by host.

    :param outputs: What each host's models put out.
    """
    hosts: dict[tuple[object, ...], dict[str, Golden]] = defaultdict(dict)
    for host, goldens in outputs.items():
        for golden in goldens:
            shape = tuple(map(len, golden.outputs))
            hosts[golden.name, golden.commit, golden.task, golden.dtype, golden.inputs, shape][host] = golden
    sentences: dict[str, list[str]] = defaultdict(list)
    for same in hosts.values():
        if len(same) < 2:
            continue
        columns = zip(*(golden.outputs for golden in same.values()))
        median = [list(map(statistics.median, zip(*column))) for column in columns]
        for host, golden in same.items():
            cosine, least = smallest_cosine(golden.outputs, median), min_cosine(golden.dtype)
            if not cosine >= least:
                sentences[host].append(
                    f"{golden.name}: expected a cosine of at least {least:g} to the median of {len(same)} hosts, "
                    f"found {cosine:.6f}"
                )
    return dict(sentences)
