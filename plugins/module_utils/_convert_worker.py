# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process that converts one model: its job comes through the standard input, the outcome is a line of output.

It runs in the host's inference environment, not in Ansible's Python. It converts the whole model or fails; what it has
written then is thrown away by the process that started it (:mod:`_convert`).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Callable

from . import _smoke_openvino, _smoke_transformers
from ._convert_spec import MODELS
from ._worker import begin, describe, reason_of

_FULL = 1 << 20  # bytes: less is none

# Of different lengths: what pads the shorter one shows the converter that the attention mask counts.
_EXAMPLES = (["A first text.", "The second one is longer than the first."], ["Passage.", "Another passage to read."])


def main() -> None:
    """Convert one model and tell what came of it."""
    report = begin()
    job = json.load(sys.stdin)
    try:
        event: dict[str, Any] = {"converted": convert(job)}
    except BaseException as error:
        event = {"failed": {"reason": reason_of(error), "error": describe(error, job["directory"])}}
    report.write(json.dumps(event) + "\n")
    report.flush()


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Convert a model, and return what it and its source put out for the same inputs.

    :param job: ``task``, ``directory``, ``weights`` and ``inputs``, and ``output``: a descriptor of the directory that
        is to hold the files.
    """
    _smoke_transformers.prepare(job)
    import nncf
    import openvino

    job = {**job, "dtype": "float32", "device": "cpu", "gpus": 0}
    source = _smoke_transformers.Model(job)
    if source.loading:
        raise ValueError(f"its files are not all of the model: {source.loading}")
    expected, _texts = source.run(job["inputs"])
    os.fchdir(job["output"])
    for name, part in zip(MODELS[job["task"]], _parts(source)):
        module, example, output = part
        model = openvino.convert_model(module, example_input=tuple(example.values()))
        for port, input_name in zip(model.inputs, example):
            port.get_tensor().set_names({input_name})
        model.outputs[0].get_tensor().set_names({output})
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        _save(model, f"{name}.xml")
        del model
    # What is on the disk counts, read anew.
    weights = [os.path.join(os.getcwd(), name) for name in sorted(os.listdir("."))]
    made = _smoke_openvino.Model({**job, "weights": weights})
    outputs, _texts = made.run(job["inputs"])
    if source.task == "text2text":
        for text in job["inputs"]:
            expected.append(source.continue_text(text))
            outputs.append(made.continue_text(text))
    return {"expected": expected, "outputs": outputs, "dtype": made.dtype}


def _save(model: Any, path: str) -> None:
    """Write a model's files.

    :raises OSError: When the disk is full; OpenVINO tells no reason itself.
    """
    import openvino

    try:
        openvino.save_model(model, path)
    except RuntimeError:
        disk = os.statvfs(".")
        if disk.f_bavail * disk.f_frsize < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise


def _parts(source: _smoke_transformers.Model) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """Yield what becomes a file of its own: a module, example inputs by name, and the name of its output."""
    model = source.model
    texts = _EXAMPLES if source.task == "rerank" else _EXAMPLES[:1]
    inputs = dict(source.reader(*texts, padding=True, return_tensors="pt"))
    if source.task != "text2text":
        output = "last_hidden_state" if source.task == "embedding" else "logits"
        names = tuple(inputs)
        yield _module(model, lambda *values: model(**dict(zip(names, values)))[output]), inputs, output
        return
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    encoder = _module(model, lambda ids, mask: model.get_encoder()(ids, mask).last_hidden_state)
    yield encoder, inputs, "last_hidden_state"
    states = {
        "input_ids": inputs["input_ids"][:, :3],
        "encoder_hidden_states": encoder(*inputs.values()),
        "encoder_attention_mask": inputs["attention_mask"],
    }

    def decode(ids: Any, states: Any, mask: Any) -> Any:
        outputs = model(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=ids, use_cache=False)
        return outputs.logits

    yield _module(model, decode), states, "logits"


def _module(model: Any, call: Callable[..., Any]) -> Any:
    """Return a call of a model as a module with the model's weights."""
    import torch

    class Part(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            return call(*values)

    return Part().eval()
