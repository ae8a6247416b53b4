# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The worker that loads and runs models, in the host's inference environment."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from . import _smoke_llama_cpp, _smoke_openvino, _smoke_transformers
from ._worker import Tell, free_memory, serve

_ENGINES = {"llama_cpp": _smoke_llama_cpp, "openvino": _smoke_openvino, "transformers": _smoke_transformers}

_MIB = 1 << 20

# Calls that latency is measured with: as many as begin within these seconds, but no fewer, and no more on a processor.
_FEWEST_CALLS, _MOST_CALLS = 3, 20
_CALLS_SECONDS = 0.25
_CALLS_SECONDS_GPU = 1.0  # its utilization is told that slowly
_SAMPLE_SECONDS = 0.05


def main() -> None:
    """Work on jobs until the input ends."""
    serve(measure)


def measure(job: dict[str, Any], phase: Tell) -> dict[str, Any]:
    """Load a model twice and run it, and return what was seen.

    :param job: ``engine``, ``task``, ``directory``, ``weights``, ``inputs``, ``dtype``, ``device``, ``gpus`` and
        ``gpu_memory_mib``.
    :param phase: Is told what is done.
    """
    phase("import")
    engine: Any = _ENGINES[job["engine"]]
    with _without_collection():
        engine.prepare(job)
    device = Device(job)
    phase("load")
    _drop_from_memory(os.path.join(job["directory"], path) for path in job["weights"])
    cold, model = _timed(lambda: engine.Model(job))
    phase("run")
    outputs, texts = model.run(job["inputs"])
    repeated, _texts = model.run(job["inputs"])
    with device.watched() as utilization:
        latencies, tokens = _latencies(model, device)
    seen = {
        "loading": model.loading,
        "dtype": model.dtype,
        "outputs": outputs,
        "texts": texts,
        "unknown_tokens": model.unknown_tokens(job["inputs"]),
        "largest_difference": _difference(outputs, repeated),
        "latency_ms": {
            "median": round(statistics.median(latencies) * 1000, 3),
            "p95": round(percentile(latencies, 95) * 1000, 3),
        },
        "tokens_per_second": round(tokens / sum(latencies), 2) if tokens else None,
        "gpu_memory_mib": device.peak_memory_mib(),
        "gpu_utilization_percent": max(utilization, default=None),
        "host_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    del model
    free_memory()
    phase("load again")
    warm, model = _timed(lambda: engine.Model(job))
    del model
    return {**seen, "load_seconds": {"cold": round(cold, 3), "warm": round(warm, 3)}}


@contextlib.contextmanager
def _without_collection() -> Any:
    """Let imports make their objects without a search for garbage, and no later one look through them.

    Libraries make a million objects that stay: each search, of which every model takes some, would cost 0.2 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _latencies(model: Any, device: Device) -> tuple[list[float], int]:
    """Return the seconds of several calls with one input, and how many tokens they made together."""
    latencies: list[float] = []
    tokens = 0
    model.call()
    on_gpu = device.torch is not None
    end = time.monotonic() + (_CALLS_SECONDS_GPU if on_gpu else _CALLS_SECONDS)
    while len(latencies) < _FEWEST_CALLS or (time.monotonic() < end and (on_gpu or len(latencies) < _MOST_CALLS)):
        device.synchronize()
        begun = time.perf_counter()
        tokens += model.call()
        device.synchronize()
        latencies.append(time.perf_counter() - begun)
    return latencies, tokens


def percentile(values: list[float], share: int) -> float:
    """Return the least value that so many per cent of all do not exceed."""
    return sorted(values)[-(-share * len(values) // 100) - 1]


def _difference(outputs: list[list[float]], repeated: list[list[float]]) -> float | None:
    """Return the largest difference of two runs; None when one of them has no numbers."""
    pairs = [pair for first, second in zip(outputs, repeated) for pair in zip(first, second)]
    if any(math.isnan(first) or math.isnan(second) for first, second in pairs):
        return None
    return max((abs(first - second) for first, second in pairs), default=0.0)


class Device:
    """The device that a job's model runs on: the processor, or the GPUs that this process sees."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        """Bound the memory that torch takes of each GPU from now on; llama.cpp takes its own, without a bound."""
        self.torch = sys.modules.get("torch") if job["device"] == "cuda" else None
        self.gpus = range(job["gpus"])
        if self.torch is None:
            return
        cuda = self.torch.cuda
        cuda.init()
        for gpu in self.gpus:
            total = cuda.get_device_properties(gpu).total_memory
            most = total if job["gpu_memory_mib"] is None else job["gpu_memory_mib"] * _MIB
            # The bound of the job before counts until there is another one.
            cuda.set_per_process_memory_fraction(min(1.0, most / total), gpu)
            cuda.reset_peak_memory_stats(gpu)

    def synchronize(self) -> None:
        """Wait until everything that was asked for is computed."""
        if self.torch is not None:
            for gpu in self.gpus:
                self.torch.cuda.synchronize(gpu)

    def peak_memory_mib(self) -> int | None:
        """Return the most memory that was taken of a GPU since the model was loaded, in MiB."""
        if self.torch is None:
            return None
        return max(int(self.torch.cuda.max_memory_reserved(gpu)) for gpu in self.gpus) // _MIB

    @contextlib.contextmanager
    def watched(self) -> Any:
        """Give the list of utilizations, in per cent, that NVML tells meanwhile."""
        samples: list[int] = []
        done = threading.Event()
        thread = threading.Thread(target=_sample_utilization, args=(samples, done), daemon=True)
        if self.torch is not None:
            thread.start()
        try:
            yield samples
        finally:
            done.set()
            if self.torch is not None:
                thread.join()


def _sample_utilization(samples: list[int], done: threading.Event) -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        while not done.wait(_SAMPLE_SECONDS):
            samples.extend(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in gpus)
    except pynvml.NVMLError:  # a MIG device does not tell it
        return


def _drop_from_memory(paths: Any) -> None:
    """Have the next reading of these files come from the disk. What another process uses stays where it is."""
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
