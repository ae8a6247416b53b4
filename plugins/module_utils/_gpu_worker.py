# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The worker that has GPUs multiply, remember and copy, in the host's inference environment.

Each step takes the device that it runs on. What comes back is compared with integer arithmetic on the processor, or
with what was sent, and never within a tolerance: a step returns how many numbers are ``wrong``, and of the first of
them the place ``at`` which it is, what was ``expected`` there, and what was ``found``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from ._worker import Tell, serve

# Products of whole numbers from -limit to limit. Every sum is a number that the type has exactly: of 256 products of
# -1, 0 and 1, none is beyond the 256 up to which bfloat16 has all whole numbers.
_INNER = 256
_EXACT = {1: ("bfloat16", "float16"), 8: ("float32", "float64", "int8")}

_CHUNK_BYTES = 1 << 26
_WORD_BYTES = 8
_PATTERNS = {"0x55": 0x5555555555555555, "0xAA": -0x5555555555555556, "address": None}

_BATCH_SECONDS = 0.1
_COPIES = 8  # that are timed together,
_TIMES = 5  # so often


def main() -> None:
    """Work on jobs until the input ends."""
    serve(measure)


def measure(job: dict[str, Any], phase: Tell) -> dict[str, Any]:
    """Do one step.

    :param job: ``step`` and its arguments.
    """
    phase("import")
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    step = job.pop("step")
    phase(step)
    return _STEPS[step](**job)


def sustain(device: str, size: int, seconds: float) -> dict[str, Any]:
    """Multiply matrices of 16-bit numbers again and again; each product must be what the first one was.

    :param size: Their rows and columns.
    :return: ``dtype``, TFLOP/s in the ``first`` and the ``last`` second, ``products`` that were compared, and how many
        of those were ``wrong``.
    """
    import torch

    dtype = torch.bfloat16 if _has_bfloat16(device) else torch.float16
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _matrix in range(2))
    product = torch.empty_like(left)

    def repeat(times: int) -> None:
        for _time in range(times):
            torch.matmul(left, right, out=product)

    repeat(1)
    first = product.clone()
    batch = max(1, round(_BATCH_SECONDS / _seconds(device, lambda: repeat(1))))
    samples: list[tuple[float, float]] = []
    wrong = 0
    begun = time.monotonic()
    while not samples or time.monotonic() - begun < seconds:
        taken = _seconds(device, lambda: repeat(batch))
        samples.append((time.monotonic() - begun, batch / taken))
        wrong += not torch.equal(product, first)
    tera = 2 * size**3 / 1e12
    end = samples[-1][0]
    return {
        "dtype": str(dtype).rpartition(".")[2],
        "first": tera * statistics.mean([rate for at, rate in samples if at <= max(1, samples[0][0])]),
        "last": tera * statistics.mean([rate for at, rate in samples if at >= end - 1]),
        "products": len(samples),
        "wrong": wrong,
    }


def multiply(device: str, size: int) -> dict[str, Any]:
    """Multiply whole numbers in each type that a device has, and compare with integer arithmetic.

    :param size: Rows and columns of the products.
    :return: For each type what is wrong, in a matrix of so many ``columns``, and a ``checksum`` of all.
    """
    import torch

    found = {}
    for limit, dtypes in _EXACT.items():
        left, right = _whole_numbers(0, size, _INNER, limit), _whole_numbers(1, _INNER, size, limit)
        expected = (left @ right).double()
        for dtype in dtypes:
            product = _product(left, right, dtype, device)
            if product is None:
                continue
            values = product.cpu().double() + 0.0  # no negative zeros
            bits = values.flatten().view(torch.int64)
            checksum = int(((bits ^ bits >> 32) * _scrambled(0, bits.numel(), "cpu")).sum())
            found[dtype] = {
                **_differences(values.flatten(), expected.flatten()),
                "columns": size,
                "checksum": f"{checksum & (1 << 64) - 1:016x}",
            }
    return found


def remember(device: str, mib: int) -> dict[str, Any]:
    """Write patterns to so much memory, all of it at once, and read them back.

    :return: The ``mib`` that this was done with, and what is wrong for each pattern.
    """
    import torch

    words = _CHUNK_BYTES // _WORD_BYTES
    chunks = [
        torch.empty(words, dtype=torch.int64, device=device) for _chunk in range(max(1, (mib << 20) // _CHUNK_BYTES))
    ]
    patterns = {}
    for name, pattern in _PATTERNS.items():
        for index, chunk in enumerate(chunks):
            if pattern is None:
                chunk.copy_(_scrambled(index * words, words, device))
            else:
                chunk.fill_(pattern)
        seen = []
        for index, chunk in enumerate(chunks):
            expected = _scrambled(index * words, words, device) if pattern is None else torch.full_like(chunk, pattern)
            seen.append(_differences(chunk, expected, index * words))
        first = next((differences for differences in seen if differences["wrong"]), seen[0])
        patterns[name] = {**first, "wrong": sum(differences["wrong"] for differences in seen)}
    return {"mib": len(chunks) * _CHUNK_BYTES >> 20, "patterns": patterns}


def copy(device: str, mib: int) -> dict[str, Any]:
    """Copy from the host to a device, within it, and back.

    :return: GB/s of each way, and what is wrong with what came back.
    """
    import torch

    source = _scrambled(0, (mib << 20) // _WORD_BYTES, "cpu")
    back = torch.zeros_like(source)
    if device != "cpu":
        source, back = source.pin_memory(), back.pin_memory()
    there, beside = (torch.zeros_like(source, device=device) for _buffer in range(2))
    rates = {
        name: _rate(device, target, origin)
        for name, target, origin in (
            ("host_to_device", there, source),
            ("device_to_device", beside, there),
            ("device_to_host", back, beside),
        )
    }
    return {"gb_per_second": rates, **_differences(back, source)}


def exchange(devices: Sequence[str], mib: int) -> dict[str, Any]:
    """Copy from each device to each other one.

    :return: ``pairs``, each with the places of the devices in the list, whether the way is ``direct``, its GB/s, and
        what is wrong with what arrived.
    """
    import torch

    source = _scrambled(0, (mib << 20) // _WORD_BYTES, "cpu")
    pairs = []
    for here, there in _ordered_pairs(len(devices)):
        sent = source.to(devices[here])
        received = torch.zeros_like(sent, device=devices[there])
        rate = _rate(devices[here], received, sent)
        pairs.append(
            {
                "from": here,
                "to": there,
                "direct": devices[here] != "cpu" and torch.cuda.can_device_access_peer(here, there),
                "gb_per_second": rate,
                **_differences(received.cpu(), source),
            }
        )
    return {"pairs": pairs}


_STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "sustained product": sustain,
    "products": multiply,
    "memory": remember,
    "copies": copy,
    "peer copies": exchange,
}


def _product(left: Any, right: Any, dtype: str, device: str) -> Any:
    """Return a product that was computed in a type, or None on a device that does not have it."""
    import torch

    if dtype == "bfloat16" and not _has_bfloat16(device):
        return None
    if dtype != "int8":
        return left.to(device, getattr(torch, dtype)) @ right.to(device, getattr(torch, dtype))
    if not hasattr(torch, "_int_mm"):
        return None
    try:
        # The second one by columns, as cuBLAS wants it.
        return torch._int_mm(left.to(device, torch.int8), right.t().contiguous().to(device, torch.int8).t())
    except RuntimeError as error:
        if "NOT_SUPPORTED" in str(error):
            return None
        raise


def _has_bfloat16(device: str) -> bool:
    import torch

    return device == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)


def _scrambled(start: int, count: int, device: str) -> Any:
    """Return a 64-bit number for each address from ``start`` on, of bits that look random."""
    import torch

    words = torch.arange(start, start + count, dtype=torch.int64, device=device)
    for factor, shift in ((-0x61C8864680B583EB, 30), (-0x40A7B892E31B1A47, 27)):
        words *= factor
        words ^= words >> shift
    return words


def _whole_numbers(which: int, rows: int, columns: int, limit: int) -> Any:
    """Return a matrix of numbers from ``-limit`` to ``limit``, the same on every host."""
    words = _scrambled(which * rows * columns, rows * columns, "cpu")
    return (words % (2 * limit + 1) - limit).reshape(rows, columns)


def _differences(found: Any, expected: Any, start: int = 0) -> dict[str, Any]:
    """Return what is wrong with numbers.

    :param start: The place of the first one.
    """
    differing = found != expected
    wrong = int(differing.sum())
    if not wrong:
        return {"wrong": 0}
    at = int(differing.nonzero()[0])
    return {"wrong": wrong, "at": start + at, "expected": expected[at].item(), "found": found[at].item()}


def _rate(device: str, target: Any, source: Any) -> float:
    """Return how fast one tensor is copied into another, in GB/s."""

    def copy_all() -> None:
        for _time in range(_COPIES):
            target.copy_(source, non_blocking=True)

    taken = [_seconds(device, copy_all) for _sample in range(_TIMES)]
    copied: int = source.numel() * _WORD_BYTES * _COPIES
    return copied / statistics.median(taken) / 1e9


def _seconds(device: str, work: Callable[[], object]) -> float:
    """Return how long a device works on something."""
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def _ordered_pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((here, there) for here in range(count) for there in range(count) if here != there)
