# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Converted models, which OpenVINO runs on the CPU. Everything here runs in the inference environment.

It takes ``openvino``, ``tokenizers`` and ``numpy``, and neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from typing import Any

from ._smoke_transformers import LONGEST_OUTPUT, NEW_TOKENS, pools_first_token

DTYPE = "int8_asym"
_DEVICE = "CPU"  # by name: what OpenVINO chooses itself may be another one
# Without it activations are rounded too, each kind of CPU in its own way, and hosts could not be compared.
_EXACT = {"EXECUTION_MODE_HINT": "ACCURACY"}
_UNBOUNDED = 1 << 20  # tokens; who has no limit writes a huge one


def prepare(_job: dict[str, Any]) -> None:
    """Import all that loading takes, so that it does not count as loading."""
    import openvino  # noqa: F401
    import tokenizers  # noqa: F401


class Model:
    """A loaded model.

    :ivar loading: Empty: OpenVINO refuses a model that lacks a weight.
    :ivar dtype: The type of its weights.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import openvino
        import tokenizers

        self.loading: dict[str, list[str]] = {}
        self.dtype = DTYPE
        self.task: str = job["task"]
        self.inputs: list[str] = job["inputs"]
        directory: str = job["directory"]
        core = openvino.Core()
        self.parts = [
            core.compile_model(os.path.join(directory, path), _DEVICE, _EXACT)
            for path in sorted(job["weights"], reverse=True)
            if path.endswith(".xml")
        ]
        self.tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        told = _read(directory, "tokenizer_config.json")
        self.unknown: int | None = self.tokenizer.token_to_id(str(told.get("unk_token")))
        longest = told.get("model_max_length")
        if isinstance(longest, int) and longest < _UNBOUNDED:
            self.tokenizer.enable_truncation(longest)
        self.first_token_pooling = pools_first_token(directory)
        config = {**_read(directory, "config.json"), **_read(directory, "generation_config.json")}
        self.start: int = config.get("decoder_start_token_id", 0)
        self.end: int | list[int] = config.get("eos_token_id", [])

    def run(self, inputs: list[str]) -> tuple[list[list[float]], list[str]]:
        """Return an output for each input, and the texts of what generates any, as for the model in its own format."""
        if self.task == "embedding":
            return [self._embed(text) for text in inputs], []
        if self.task == "rerank":
            return [self._score(inputs[0], passage) for passage in inputs[1:]], []
        pairs = [self._generate(text) for text in inputs]
        return [output for output, _text in pairs], [text for _output, text in pairs]

    def unknown_tokens(self, inputs: list[str]) -> float:
        """Return the share of tokens that the vocabulary does not have."""
        tokens = [token for text in inputs for token in self.tokenizer.encode(text, add_special_tokens=False).ids]
        return tokens.count(self.unknown) / len(tokens)

    def call(self) -> int:
        """Answer the first input, and return how many tokens that made."""
        if self.task == "embedding":
            self._embed(self.inputs[0])
        elif self.task == "rerank":
            self._score(*self.inputs[:2])
        else:
            self._generate(self.inputs[0])
            return NEW_TOKENS
        return 0

    def continue_text(self, text: str) -> list[float]:
        """Return the logits of the token after the first ones of a text, taken as the beginning of its own answer."""
        tokens = self._tokens(text)
        given = [self.start, *tokens["input_ids"][0].tolist()[:NEW_TOKENS]]
        return _logits(self._next(tokens, self._infer(0, tokens), given))

    def _embed(self, text: str) -> list[float]:
        tokens = self._tokens(text)
        states = self._infer(0, tokens)[0]
        pooled = states[0] if self.first_token_pooling else states.mean(axis=0)
        return _values(pooled / max(float((pooled**2).sum() ** 0.5), 1e-12))

    def _score(self, query: str, passage: str) -> list[float]:
        return _values(self._infer(0, self._tokens(query, passage))[0])

    def _generate(self, text: str) -> tuple[list[float], str]:
        """Return the logits of the first new token, and a text that takes the likeliest token each time."""
        tokens = self._tokens(text)
        states = self._infer(0, tokens)
        made = [self.start]
        first = None
        while len(made) <= NEW_TOKENS:
            logits = self._next(tokens, states, made)
            first = logits.copy() if first is None else first
            logits[self.end] = -math.inf  # as everywhere in the test, a text does not end early
            made.append(int(logits.argmax()))
        return _logits(first), str(self.tokenizer.decode(made[1:]))

    def _next(self, tokens: dict[str, Any], states: Any, made: list[int]) -> Any:
        """Return the logits of the token after those that were made."""
        import numpy

        step = {
            "input_ids": numpy.array([made], dtype=numpy.int64),
            "encoder_hidden_states": states,
            "encoder_attention_mask": tokens["attention_mask"],
        }
        return self._infer(1, step)[0, -1]

    def _tokens(self, *texts: str) -> dict[str, Any]:
        import numpy

        encoding = self.tokenizer.encode(*texts)
        names = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
        names["token_type_ids"] = encoding.type_ids
        return {name: numpy.array([values], dtype=numpy.int64) for name, values in names.items()}

    def _infer(self, part: int, inputs: dict[str, Any]) -> Any:
        model = self.parts[part]
        wanted = {port.any_name for port in model.inputs}
        return model({name: value for name, value in inputs.items() if name in wanted})[0]


def _read(directory: str, name: str) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError), open(os.path.join(directory, name), encoding="utf-8") as stream:
        return dict(json.load(stream))
    return {}


def _logits(array: Any) -> list[float]:
    """Return logits without what all of them have in common, as for the model in its own format."""
    return _values(array - array.mean())


def _values(array: Any) -> list[float]:
    """Return an output's values; of a long one an even share, and one that is not finite whatever its place."""
    import numpy

    if not numpy.isfinite(array).all():
        return [float("nan")]
    return [round(float(value), 7) for value in array[:: -(-len(array) // LONGEST_OUTPUT)]]
