"""A torch that takes the processor for a GPU, to rehearse a trial where there is none.

An environment imports it by a ``.pth`` file. What torch.cuda and ``from_pretrained`` promise about a GPU's
memory is kept, as far as the collection asks for it: a model beyond the bound is out of memory.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

_MIB = 1 << 20
_TOTAL = 80000 * _MIB
_WORKSPACE = 9 * _MIB // 4  # what a GPU takes beside the weights

_cuda: Any = torch.cuda
_bound = _TOTAL
_most = 0


def _init() -> None:
    """Have models loaded on the processor that are meant for the GPU; by now transformers has been imported."""
    import transformers  # noqa: PLC0415

    kind = transformers.PreTrainedModel
    if getattr(kind, "pretended", False):
        return
    load = kind.from_pretrained.__func__

    def from_pretrained(cls: Any, *arguments: Any, device_map: Any = None, **options: Any) -> Any:
        if device_map is not None:
            assert device_map == {"": 0}, device_map
            if "quantization_config" in options:
                options["device_map"] = {"": "cpu"}
        loaded = load(cls, *arguments, **options)
        if device_map is not None:
            _take(loaded[0].get_memory_footprint() + _WORKSPACE)
            loaded[0].hf_device_map = device_map
        return loaded

    kind.from_pretrained = classmethod(from_pretrained)
    kind.pretended = True


def _take(size: int) -> None:
    global _most  # noqa: PLW0603 - one process has one GPU
    if size > _bound:
        raise torch.OutOfMemoryError(f"CUDA out of memory. {_bound >> 20} MiB allowed; tried to allocate {size} bytes")
    _most = max(_most, size)


def _set_fraction(fraction: float, _gpu: int) -> None:
    global _bound  # noqa: PLW0603
    assert 0 <= fraction <= 1
    _bound = int(fraction * _TOTAL)


def _reset_peak(_gpu: int) -> None:
    global _most  # noqa: PLW0603
    _most = 0


_zeros: Any = torch.zeros


def _zeros_somewhere(*size: int, device: Any = None, **options: Any) -> Any:
    return _zeros(*size, device=None if device == "cuda" else device, **options)


torch.zeros = _zeros_somewhere
_cuda.init = _init
_cuda.get_device_properties = lambda _gpu: SimpleNamespace(total_memory=_TOTAL, name="Pretended GPU")
_cuda.device_count = lambda: 1
_cuda.set_per_process_memory_fraction = _set_fraction
_cuda.reset_peak_memory_stats = _reset_peak
_cuda.max_memory_reserved = lambda _gpu: _most
_cuda.synchronize = lambda _gpu: None
