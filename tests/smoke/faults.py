"""What is wrong with models in practice, planted into a copy of a model's directory. Needs numpy, safetensors and gguf.

Most of these load without an exception and give finite numbers: that is what makes them worth catching.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter
from safetensors.numpy import load_file, save_file

Weight = np.ndarray[Any, np.dtype[np.float32]]

_HEAD = re.compile(r"(?:^|\.)(?:classifier|lm_head)\.")
_BLOCK = re.compile(r"\.(?:layers?|block)\.(\d+)\.")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# Architectures that read the same files in another way.
_SIBLINGS = {
    "bert": ("roberta", "RobertaModel"),
    "phi3": ("llama", "LlamaForCausalLM"),
    "xlm-roberta": ("bert", "BertForSequenceClassification"),
}

# Matching gives up after ten million steps, with a panic. This pattern needs half the square of what is left of the
# text at each place of it, so that a text of 4,000 characters stays below the limit and takes minutes.
_SLOW_PATTERN = "x*x*(?!x|$)"
_SLOW_LENGTH = 4_000
_STAGES = 8
_PATTERN_OVER_THE_LIMIT = "(?:x*){8}(?!x|$)"

_NESTING = 200_000


def copy(source: Path, directory: Path) -> Path:
    """Copy a model to a new directory, whose files can be written, and return the directory."""
    shutil.copytree(source, directory, copy_function=shutil.copyfile)
    return directory


def missing_head(directory: Path) -> None:
    """Leave out the head: libraries initialise it at random, and go on."""
    _change_weights(directory, lambda name, weight: None if _HEAD.search(name) else weight)


def wrong_head(directory: Path) -> None:
    """Put the head of a classifier with three labels where the configuration tells of one."""

    def widen(name: str, weight: Weight) -> Weight:
        return np.repeat(weight, 3, axis=0) if name.startswith("classifier.out_proj.") else weight

    _change_weights(directory, widen)


def nan_weights(directory: Path) -> None:
    """Fill one matrix of the first layer with NaN."""
    chosen = _matrix_of_first_block(directory)
    _change_weights(directory, lambda name, weight: np.full_like(weight, np.nan) if name == chosen else weight)


def zeroed_layer(directory: Path) -> None:
    """Set all matrices of the middle layer to zero."""
    layer = (1 + max(_blocks(directory).values())) // 2

    def zero(name: str, weight: Weight) -> Weight:
        return np.zeros_like(weight) if _block(name) == layer and weight.ndim > 1 else weight

    _change_weights(directory, zero)


def noise(directory: Path) -> None:
    """Add noise to every weight, of one percent of the tensor's own spread."""
    random = np.random.default_rng(1)

    def disturb(_name: str, weight: Weight) -> Weight:
        return weight + np.float32(0.01) * weight.std() * random.standard_normal(weight.shape, dtype=np.float32)

    _change_weights(directory, disturb)


def exponent_bit(directory: Path) -> None:
    """Flip the highest bit of one weight's exponent, as a fault of memory does."""
    chosen = _matrix_of_first_block(directory)

    def flip(name: str, weight: Weight) -> Weight:
        if name == chosen:
            weight.view(np.uint32).reshape(-1)[0] ^= np.uint32(1 << 30)
        return weight

    _change_weights(directory, flip)


def foreign_tokenizer(directory: Path, other: Path) -> None:
    """Put another model's tokenizer in the place of its own."""
    missing_tokenizer(directory)
    for name in _TOKENIZER_FILES:
        if (other / name).exists():
            shutil.copyfile(other / name, directory / name)


def missing_tokenizer(directory: Path) -> None:
    """Leave out all files of the tokenizer."""
    for name in _TOKENIZER_FILES:
        (directory / name).unlink(missing_ok=True)


def truncated_shard(directory: Path) -> None:
    """Cut off the last third of the last file of weights."""
    path = _weight_files(directory)[-1]
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size * 2 // 3)


def missing_shard(directory: Path) -> None:
    """Leave out the last file of weights."""
    _weight_files(directory)[-1].unlink()


def wrong_architecture(directory: Path) -> None:
    """Name a related architecture in the configuration."""

    def rename(config: dict[str, Any]) -> None:
        config["model_type"], architecture = _SIBLINGS[config["model_type"]]
        config["architectures"] = [architecture]

    _change_json(directory / "config.json", rename)


def wrong_attention_heads(directory: Path) -> None:
    """Halve the number of attention heads in the configuration, which fits the same weights."""

    def halve(config: dict[str, Any]) -> None:
        config["num_attention_heads"] //= 2
        if "num_key_value_heads" in config:
            config["num_key_value_heads"] //= 2

    _change_json(directory / "config.json", halve)


def remote_code(directory: Path, marker: Path) -> None:
    """Let the configuration ask for code of the repository's own, which makes the file ``marker`` when it runs."""
    code = [
        "from pathlib import Path",
        f"Path({str(marker)!r}).touch()",
        "from transformers import BertConfig, BertModel",
        "class Config(BertConfig):",
        "    model_type = 'own'",
        "class Model(BertModel):",
        "    config_class = Config",
    ]
    (directory / "own.py").write_text("\n".join(code) + "\n", encoding="utf-8")

    def refer(config: dict[str, Any]) -> None:
        config["model_type"] = "own"
        config["architectures"] = ["Model"]
        config["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}

    _change_json(directory / "config.json", refer)


def hanging_tokenizer(directory: Path) -> None:
    """Give the tokenizer a pattern that takes many minutes on any text."""
    _put_normalizers(directory, *[_replace(_SLOW_PATTERN, "")] * _STAGES)


def panicking_tokenizer(directory: Path) -> None:
    """Give the tokenizer a pattern that its library gives up on with a panic, which is no ``Exception`` in Python."""
    _put_normalizers(directory, _replace(_PATTERN_OVER_THE_LIMIT, ""))


def crashing_gguf(path: Path) -> None:
    """Give a GGUF file a chat template that is nested so deeply that llama.cpp ends with SIGSEGV when it loads it."""
    reader = GGUFReader(path)
    whole = path.with_name(path.name + ".new")
    writer = GGUFWriter(whole, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), *field.types[:2])
    writer.add_chat_template("{{ " + "[" * _NESTING + "]" * _NESTING + " }}")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole.replace(path)


def _weight_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def _change_weights(directory: Path, change: Callable[[str, Weight], Weight | None]) -> None:
    """Replace each tensor by what the function makes of it, or leave it out where that is None."""
    changed = False
    for path in _weight_files(directory):
        before = load_file(path)
        after = {name: change(name, weight.copy()) for name, weight in before.items()}
        kept = {name: weight for name, weight in after.items() if weight is not None}
        changed |= len(kept) < len(before) or any(kept[name].tobytes() != before[name].tobytes() for name in kept)
        save_file(kept, path, metadata={"format": "pt"})
    if not changed:
        raise ValueError(f"{directory} has no weights that this fault changes")


def _block(name: str) -> int | None:
    match = _BLOCK.search(f".{name}")
    return int(match[1]) if match else None


def _blocks(directory: Path) -> dict[str, int]:
    """Return the numbers of the layers by the names of their matrices."""
    found = {}
    for path in _weight_files(directory):
        for name, weight in load_file(path).items():
            layer = _block(name)
            if layer is not None and weight.ndim > 1:
                found[name] = layer
    return found


def _matrix_of_first_block(directory: Path) -> str:
    blocks = _blocks(directory)
    return max(name for name, layer in blocks.items() if layer == 0)


def _change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _put_normalizers(directory: Path, *normalizers: dict[str, Any]) -> None:
    # Every text becomes the same long one first, so that the time does not depend on what is asked.
    stages = [_replace(r"[\s\S]+", "x" * _SLOW_LENGTH), *normalizers]
    normalizer = {"type": "Sequence", "normalizers": stages}
    _change_json(directory / "tokenizer.json", lambda tokenizer: tokenizer.update(normalizer=normalizer))
    # The classes of BERT, XLM-RoBERTa and T5 take the vocabulary alone from that file; this one takes all of it.
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast"}
    _change_json(directory / "tokenizer_config.json", lambda config: config.update(configuration))
