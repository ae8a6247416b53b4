# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same kind of GPU on several hosts: which of them is behind the others, or multiplies otherwise."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_FEWEST = 3  # GPUs of a name, to tell who is behind

# The least share of the median. What a GPU does by itself varies little; the way to the host depends on the host, but
# a link with half of its lanes shows.
_SHARES = {"tflops": 0.9, "device_to_device": 0.9, "host_to_device": 0.6, "device_to_host": 0.6}
_UNITS = {"tflops": "TFLOP/s"}

Gpu = Mapping[str, Any]


def find_gpu_outliers(hosts: Mapping[str, Iterable[Gpu]]) -> dict[str, list[str]]:
    """Return a sentence for each GPU that differs from the others, by host.

    :param hosts: The GPUs of each host, as the module ``gpu_check`` returns them.
    """
    gpus = [(host, gpu) for host, found in hosts.items() for gpu in found]
    sentences: dict[str, list[str]] = defaultdict(list)
    for host, gpu, sentence in [*_slow(gpus), *_wrong(gpus)]:
        sentences[host].append(f"GPU {gpu['index']} ({gpu['name']}): {sentence}")
    return dict(sentences)


def _slow(gpus: Iterable[tuple[str, Gpu]]) -> Iterator[tuple[str, Gpu, str]]:
    figures: dict[tuple[str, str], list[tuple[str, Gpu, float]]] = defaultdict(list)
    for host, gpu in gpus:
        for figure, value in _figures(gpu).items():
            figures[gpu["name"], figure].append((host, gpu, value))
    for (_name, figure), measured in figures.items():
        if len(measured) < _FEWEST:
            continue
        median = statistics.median(value for _host, _gpu, value in measured)
        least = _SHARES[figure] * median
        for host, gpu, value in measured:
            if value < least:
                unit = _UNITS.get(figure, "GB/s")
                of = f"{median:.1f}, the median of {len(measured)} GPUs"
                yield host, gpu, f"{figure}: expected at least {least:.1f} {unit}, of {of}, found {value:.1f}"


def _figures(gpu: Gpu) -> dict[str, float]:
    speed, copies = gpu["tflops"] or {}, gpu["gb_per_second"] or {}
    figures = {"tflops": speed.get("last"), **{name: copies.get(name) for name in _SHARES if name != "tflops"}}
    return {name: float(value) for name, value in figures.items() if value is not None}


def _wrong(gpus: Iterable[tuple[str, Gpu]]) -> Iterator[tuple[str, Gpu, str]]:
    products: dict[str, list[tuple[str, Gpu, str]]] = defaultdict(list)
    for host, gpu in gpus:
        for dtype, checksum in (gpu["products"] or {}).items():
            products[dtype].append((host, gpu, checksum))
    for dtype, found in products.items():
        (usual, times), *_others = Counter(checksum for _host, _gpu, checksum in found).most_common()
        # Where no one product is that of most GPUs, nobody can tell who is right.
        expected = (
            f"{usual}, as {times} of {len(found)} GPUs have" if times * 2 > len(found) else "one that GPUs agree on"
        )
        for host, gpu, checksum in found:
            if checksum != usual or times * 2 <= len(found):
                yield host, gpu, f"product {dtype}: expected the checksum {expected}, found {checksum}"
