"""The shortest plain script that loads models and runs them in one process: what the tests compare with.

Run with the Python of .cache/inference, it prints a line of JSON for each model:

    .cache/inference/bin/python -m tests.smoke.plain TASK=PATH…
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "RUST_BACKTRACE": "0"}

TEXTS = [
    "Hello world",
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France?",
    "Berlin has a population of 3.7 million people.",
    "Graphics cards multiply large matrices of numbers.",
    "def add(first, second): return first + second",
]
QUERY = TEXTS[2]
NEW_TOKENS = 8

Answer = dict[str, Any]


def run(task: str, path: Path) -> Answer:
    """Return a model's outputs for the six texts (one row for each), ids where it generates, and keys in question."""
    if task == "gguf":
        return _gguf(path)
    import torch  # noqa: PLC0415
    import transformers as hf  # noqa: PLC0415

    hf.logging.set_verbosity_error()
    heads = {
        "embedding": hf.AutoModel,
        "rerank": hf.AutoModelForSequenceClassification,
        "text2text": hf.AutoModelForSeq2SeqLM,
        "generation": hf.AutoModelForCausalLM,
        "image_text": hf.AutoModelForImageTextToText,
    }
    local = {"local_files_only": True, "trust_remote_code": False}
    kind = hf.AutoProcessor if task == "image_text" else hf.AutoTokenizer
    processor = kind.from_pretrained(path, **local)
    model, info = heads[task].from_pretrained(path, dtype=torch.float32, output_loading_info=True, **local)
    model.eval()
    keys = {name: sorted(map(str, found)) for name, found in info.items() if found}
    with torch.inference_mode():
        run_one: Callable[[Any, Any, int], tuple[list[float], list[int]]] = globals()[f"_{task}"]
        rows = [run_one(model, processor, number) for number in range(len(TEXTS))]
    return {"outputs": [row[0] for row in rows], "ids": [row[1] for row in rows], "keys": keys}


def _embedding(model: Any, tokenizer: Any, number: int) -> tuple[list[float], list[int]]:
    encoded = tokenizer(TEXTS[number], return_tensors="pt")
    vector = model(**encoded).last_hidden_state[0].double().mean(dim=0)
    return (vector / vector.norm()).tolist(), []


def _rerank(model: Any, tokenizer: Any, number: int) -> tuple[list[float], list[int]]:
    return model(**tokenizer(QUERY, TEXTS[number], return_tensors="pt")).logits[0].tolist(), []


def _generation(model: Any, tokenizer: Any, number: int) -> tuple[list[float], list[int]]:
    return _generate(model, tokenizer(TEXTS[number], return_tensors="pt"))


_text2text = _generation


def _image_text(model: Any, processor: Any, number: int) -> tuple[list[float], list[int]]:
    from PIL import Image  # noqa: PLC0415

    image = Image.new("RGB", (80, 48), (40 * number, 255 - 40 * number, 128))
    return _generate(model, processor(images=image, text=f"[IMG] {TEXTS[number]}", return_tensors="pt"))


def _generate(model: Any, encoded: Any) -> tuple[list[float], list[int]]:
    result = model.generate(
        **encoded,
        do_sample=False,
        num_beams=1,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return result.logits[0][0].tolist(), result.sequences[0, -NEW_TOKENS:].tolist()


def _gguf(path: Path) -> Answer:
    import xllamacpp  # noqa: PLC0415

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 256
    params.n_parallel = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    request = {"max_tokens": NEW_TOKENS, "temperature": 0, "logprobs": 1, "ignore_eos": True}
    answers = [server.handle_completions({"prompt": text, **request}) for text in TEXTS]
    tokens = [answer["choices"][0]["logprobs"]["content"] for answer in answers]
    return {
        "outputs": [[token["logprob"] for token in row] for row in tokens],
        "ids": [[token["id"] for token in row] for row in tokens],
        "keys": {},
    }


def main() -> None:
    """Run each model that is named; what goes wrong with one is its answer, and the next one is run."""
    warnings.simplefilter("ignore")
    for argument in sys.argv[1:]:
        task, _separator, path = argument.partition("=")
        try:
            answer = run(task, Path(path))
        except BaseException as error:  # A panic in the tokenizer's library is no Exception.
            answer = {"error": [kind.__name__ for kind in type(error).__mro__], "message": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
