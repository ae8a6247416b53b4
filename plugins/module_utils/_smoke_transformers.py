# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Models that transformers loads. Everything here runs in the inference environment."""

from __future__ import annotations

import json
import os
from typing import Any

from ._smoke_spec import QUANTIZED

NEW_TOKENS = 16
LONGEST_OUTPUT = 1024  # values of one output that are kept; of a longer one, every n-th
_IMAGE_PIXELS = 224

_CLASSES = {
    "embedding": "AutoModel",
    "rerank": "AutoModelForSequenceClassification",
    "text2text": "AutoModelForSeq2SeqLM",
    "generation": "AutoModelForCausalLM",
    "image_text": "AutoModelForImageTextToText",
}

# Heads that a model has for its training, and that nobody asks for an embedding.
_UNUSED = ("pooler.",)


def prepare(job: dict[str, Any]) -> None:
    """Import all that loading takes, so that it does not count as loading."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(job["directory"], local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        getattr(transformers, _CLASSES[job["task"]]).from_config(config, trust_remote_code=False)


class Model:
    """A loaded model.

    :ivar loading: What the weights lacked, by its kind; empty when they were whole.
    :ivar dtype: The type that it computes in.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import torch
        import transformers

        self.torch = torch
        self.task: str = job["task"]
        self.dtype: str = job["dtype"]
        self.device: str = job["device"]
        directory: str = job["directory"]
        local = {"local_files_only": True, "trust_remote_code": False}
        loader = getattr(transformers, _CLASSES[self.task])
        self.model, info = loader.from_pretrained(
            directory,
            **local,
            **_types(job),
            **_place(job),
            use_safetensors=True if job["weights"] else None,
            # Made up like what is missing, and told like it.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        self.model.eval()
        spilled = {"cpu", "disk"} & set(map(str, getattr(self.model, "hf_device_map", {}).values()))
        if spilled and self.device == "cuda":
            raise MemoryError(f"the GPUs have no room for all layers: some were put on {', '.join(sorted(spilled))}")
        self.loading = _problems(info)
        if _is_tied_unasked(self.model, directory):
            self.loading.setdefault("missing_keys", []).append("those of the head, for which the embedding was taken")
        reader = transformers.AutoProcessor if self.task == "image_text" else transformers.AutoTokenizer
        self.reader = reader.from_pretrained(directory, **local)
        self.inputs: list[str] = job["inputs"]
        self.first_token_pooling = pools_first_token(directory)

    def run(self, inputs: list[str]) -> tuple[list[list[float]], list[str]]:
        """Return an output for each input, and the text that what generates any makes of the first one.

        An output is the normalized embedding; the scores of a passage; the logits of the first new token.
        """
        with self.torch.inference_mode():
            if self.task == "embedding":
                return [self._embed(text) for text in inputs], []
            if self.task == "rerank":
                return [self._score(inputs[0], passage) for passage in inputs[1:]], []
            whole, text = self._generate(inputs[0], NEW_TOKENS)
            return [whole, *(self._generate(other, 1)[0] for other in inputs[1:])], [text]

    def unknown_tokens(self, inputs: list[str]) -> float:
        """Return the share of tokens that the vocabulary does not have: nearly all, where its files are missing."""
        tokenizer = getattr(self.reader, "tokenizer", self.reader)
        tokens = [token for text in inputs for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
        return tokens.count(tokenizer.unk_token_id) / len(tokens)

    def call(self) -> int:
        """Answer the first input, and return how many tokens that made."""
        with self.torch.inference_mode():
            if self.task == "embedding":
                self._embed(self.inputs[0])
            elif self.task == "rerank":
                self._score(*self.inputs[:2])
            else:
                self._generate(self.inputs[0], NEW_TOKENS)
                return NEW_TOKENS
        return 0

    def continue_text(self, text: str) -> list[float]:
        """Return the logits of the token after the first ones of a text, taken as the beginning of its own answer."""
        tokens = self._tokens(text)
        start = self.torch.tensor([[self.model.generation_config.decoder_start_token_id]])
        given = self.torch.cat([start.to(self.model.device), tokens["input_ids"][:, :NEW_TOKENS]], dim=1)
        with self.torch.inference_mode():
            return _logits(self.model(**tokens, decoder_input_ids=given).logits[0, -1])

    def _embed(self, text: str) -> list[float]:
        inputs = self._tokens(text)
        states = self.model(**inputs).last_hidden_state.float()
        if self.first_token_pooling:
            pooled = states[:, 0]
        else:
            mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return _values(self.torch.nn.functional.normalize(pooled, dim=-1)[0])

    def _score(self, query: str, passage: str) -> list[float]:
        return _values(self.model(**self._tokens(query, passage)).logits[0])

    def _generate(self, text: str, tokens: int) -> tuple[list[float], str]:
        inputs = self._picture(text) if self.task == "image_text" else self._tokens(text)
        made = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        # One that is not finite in any step shows in the first place.
        broken = [step for step in made.logits if not bool(self.torch.isfinite(step).all())]
        logits = (broken or made.logits)[0][0]
        before = 0 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[-1]
        return _logits(logits), self.reader.decode(made.sequences[0][before:], skip_special_tokens=True)

    def _tokens(self, *texts: str) -> Any:
        return self.reader(*texts, return_tensors="pt", truncation=True).to(self.model.device)

    def _picture(self, text: str) -> Any:
        """Return a text about a picture, as the model's own template has it."""
        from PIL import Image

        image = Image.radial_gradient("L").resize((_IMAGE_PIXELS, _IMAGE_PIXELS)).convert("RGB")
        if self.reader.chat_template:
            # Templates read the one or the other.
            content = [{"type": "image"}, {"type": "text", "text": text, "content": text}]
            text = self.reader.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        else:
            text = f"{self.reader.image_token}{text}"
        inputs = self.reader(images=image, text=text, return_tensors="pt")
        return inputs.to(self.model.device, dtype=self.model.dtype)


def _place(job: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that have a model loaded where it computes. On a CPU only bitsandbytes has to be told."""
    if job["gpus"] > 1:
        most = job["gpu_memory_mib"]
        bound = {} if most is None else {"max_memory": {gpu: f"{int(most)}MiB" for gpu in range(job["gpus"])}}
        return {"device_map": "auto", **bound}
    if job["device"] == "cuda":
        return {"device_map": {"": 0}}
    return {"device_map": {"": "cpu"}} if job["dtype"] in QUANTIZED else {}


def _types(job: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that have a model loaded with the wanted type."""
    import torch

    if job["dtype"] not in QUANTIZED:
        return {"dtype": getattr(torch, job["dtype"])}
    from transformers import BitsAndBytesConfig

    if job["dtype"] == "int8":
        return {"dtype": torch.float16, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    configuration = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    return {"dtype": torch.bfloat16, "quantization_config": configuration}


def _problems(info: dict[str, Any]) -> dict[str, list[str]]:
    """Return what a model's weights lacked: transformers makes that up at random, and says so only here."""
    problems = {}
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        found = sorted(str(item) for item in info.get(kind, ()) if not str(item).startswith(_UNUSED))
        if found:
            problems[kind] = found
    return problems


def _is_tied_unasked(model: Any, directory: str) -> bool:
    """Whether a head that has weights of its own was given the embedding's, as is done where they are missing."""
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as stream:
        if json.load(stream).get("tie_word_embeddings") is not False:
            return False
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def pools_first_token(directory: str) -> bool:
    """Whether an embedding is the first token's, and not the mean; sentence-transformers keeps that in a file."""
    try:
        with open(os.path.join(directory, "1_Pooling", "config.json"), encoding="utf-8") as stream:
            return bool(json.load(stream).get("pooling_mode_cls_token"))
    except FileNotFoundError:
        return False


def _logits(tensor: Any) -> list[float]:
    """Return logits without what all of them have in common, which says nothing about the input."""
    return _values(tensor.float() - tensor.float().mean())


def _values(tensor: Any) -> list[float]:
    """Return an output's values; of a long one an even share, and one that is not finite whatever its place."""
    values = tensor.float()
    if not bool(values.isfinite().all()):
        return [float("nan")]
    step = -(-values.shape[0] // LONGEST_OUTPUT)
    return [round(value, 7) for value in values[::step].tolist()]
