# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Models that llama.cpp loads, through xllamacpp. Everything here runs in the inference environment."""

from __future__ import annotations

import math
import os
import secrets
from typing import Any

from ._smoke_transformers import LONGEST_OUTPUT, NEW_TOKENS

_CONTEXT_TOKENS = 512
_ALL_LAYERS = 999
_WHOLE_VOCABULARY = 1 << 20  # tokens; more than any has


def prepare(_job: dict[str, Any]) -> None:
    """Import all that loading takes, so that it does not count as loading."""
    import xllamacpp  # noqa: F401


class Model:
    """A loaded model.

    :ivar loading: Empty: llama.cpp refuses a file that lacks a weight.
    :ivar dtype: The file has its own types.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import xllamacpp

        self.loading: dict[str, list[str]] = {}
        self.dtype = "gguf"
        parameters = xllamacpp.CommonParams()
        parameters.model.path = os.path.join(job["directory"], job["weights"][0])
        parameters.n_ctx = _CONTEXT_TOKENS
        parameters.n_parallel = 1
        if job["device"] == "cuda":
            _require_gpu(xllamacpp.get_device_info())
            parameters.n_gpu_layers = _ALL_LAYERS
        else:
            parameters.n_gpu_layers = 0
        # It listens on a port of loopback, which other accounts reach as well.
        parameters.api_keys = [secrets.token_hex()]
        parameters.warmup = False
        self.server = xllamacpp.Server(parameters)
        self.inputs: list[str] = job["inputs"]
        # It returns before its own thread serves, and waits for ever when it is given up before that. Besides, what is
        # mapped into memory is loaded only when it is read.
        self._complete(self.inputs[0], n_predict=1)

    def run(self, inputs: list[str]) -> tuple[list[list[float]], list[str]]:
        """Return the first new token's log-probabilities for each input, and the texts."""
        # Of a token that is a part of a character nothing is told; the probabilities are those before the choice.
        how = {"n_probs": _WHOLE_VOCABULARY, "n_predict": 1, "grammar": "root ::= [ -~]+"}
        answers = [self._complete(text, **how)["choices"][0] for text in inputs]
        outputs = [_values(answer["logprobs"]["content"][0]["top_logprobs"]) for answer in answers]
        return outputs, [str(self._complete(text)["choices"][0]["text"]) for text in inputs]

    def unknown_tokens(self, _inputs: list[str]) -> float:
        """Return the share of tokens that the vocabulary does not have; a file without one is refused."""
        return 0.0

    def call(self) -> int:
        """Answer the first input, and return how many tokens that made."""
        return int(self._complete(self.inputs[0])["usage"]["completion_tokens"])

    def _complete(self, text: str, **more: Any) -> dict[str, Any]:
        request = {
            "prompt": text,
            "temperature": 0,
            "n_predict": NEW_TOKENS,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer: dict[str, Any] = self.server.handle_completions({**request, **more})
        if "error" in answer:
            raise RuntimeError(answer["error"].get("message", answer["error"]))
        return answer


def _require_gpu(devices: list[dict[str, Any]]) -> None:
    """Require that this build of llama.cpp can use a GPU: else it computes on the processor, and says nothing."""
    if all(device["name"] == "CPU" for device in devices):
        raise RuntimeError("this xllamacpp is built for processors alone, found a GPU; install a build for CUDA")


def _values(tokens: list[dict[str, Any]]) -> list[float]:
    """Return the tokens' values in the order of the vocabulary; of a long one an even share.

    What all of them have in common says nothing about the input, and is left out.
    """
    values = [float(token["logprob"]) for token in sorted(tokens, key=lambda token: int(token["id"]))]
    if not all(map(math.isfinite, values)):
        return [math.nan]
    mean = math.fsum(values) / len(values)
    return [round(value - mean, 7) for value in values[:: -(-len(values) // LONGEST_OUTPUT)]]
