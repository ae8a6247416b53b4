"""Tiny models with random weights, one directory each, as a repository of the Hub holds them; always the same bytes.

Run with the Python of .cache/inference, which has torch and transformers:

    .cache/inference/bin/python -m tests.smoke.factory DEST [NAME…]
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from tests.smoke.vocabularies import LLAMA_SPECIAL, byte_level, llama_vocabulary, unigram, word_pieces

SEED = 1
VOCABULARY = 512
IMAGE_SIZE = 64
PATCH = 16
_HIDDEN = 64
_LAYERS = 3
_HEADS = 4
_POSITIONS = 512
_VECTOR_SPREAD = 0.1


def bert(directory: Path) -> None:
    """Write an embedding model with mean pooling, laid out as sentence-transformers does."""
    config = hf.BertConfig(**_sizes(), intermediate_size=2 * _HIDDEN, max_position_embeddings=_POSITIONS)
    _save(hf.BertModel(config, add_pooling_layer=True), directory)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: number for number, piece in enumerate(word_pieces(special, VOCABULARY))}
    hf.BertTokenizer(vocab=vocabulary, model_max_length=_POSITIONS).save_pretrained(directory)
    steps = ["Transformer", "Pooling", "Normalize"]
    _write_json(
        directory / "modules.json",
        [
            {
                "idx": index,
                "name": str(index),
                "path": f"{index}_{step}" if index else "",
                "type": f"sentence_transformers.models.{step}",
            }
            for index, step in enumerate(steps)
        ],
    )
    _write_json(directory / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    (directory / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    _write_json(directory / "1_Pooling/config.json", {"word_embedding_dimension": _HIDDEN, **modes})


def xlm_roberta(directory: Path) -> None:
    """Write a reranker: one score for a query and a passage."""
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    # The positions of this architecture begin after the padding's.
    positions = _POSITIONS + special["pad_token_id"] + 1
    config = hf.XLMRobertaConfig(
        **_sizes(), **special, intermediate_size=2 * _HIDDEN, max_position_embeddings=positions, num_labels=1
    )
    _save(hf.XLMRobertaForSequenceClassification(config), directory)
    vocabulary = unigram(["<s>", "<pad>", "</s>", "<unk>"], VOCABULARY - 1)
    tokenizer = hf.XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)], model_max_length=_POSITIONS)
    tokenizer.save_pretrained(directory)


def t5(directory: Path) -> None:
    """Write a text to text model, of the kind of flan-t5."""
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=_HIDDEN,
        d_kv=_HIDDEN // _HEADS,
        d_ff=2 * _HIDDEN,
        num_layers=_LAYERS,
        num_heads=_HEADS,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = hf.T5ForConditionalGeneration(config)
    # flan-t5 has a head of its own. The library ties it to the embedding all the same, unless a file has both.
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    _save(model, directory)
    _change_config(directory, tie_word_embeddings=False)
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    vocabulary = unigram(["<pad>", "</s>", "<unk>"], VOCABULARY - len(sentinels))
    hf.T5Tokenizer(vocab=[*vocabulary, *sentinels], model_max_length=_POSITIONS).save_pretrained(directory)


def phi3(directory: Path) -> None:
    """Write a generating model in one file."""
    _save(hf.Phi3ForCausalLM(_phi3_config()), directory)
    _save_llama_tokenizer(directory)


def phi3_sharded(directory: Path) -> None:
    """Write a generating model in three shards, with an index."""
    model = hf.Phi3ForCausalLM(_phi3_config())
    # A shard takes whole tensors up to the limit: with a third of all bytes there would be more than three.
    _save(model, directory, max_shard_size=model.get_memory_footprint() * 4 // 9)
    _save_llama_tokenizer(directory)


def llama_gguf(directory: Path) -> None:
    """Write a generating model as GGUF, in Q4_0 and in Q8_0."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize  # noqa: PLC0415 - not where GPUs are tested

    for kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0):
        writer = GGUFWriter(directory / f"tiny-llama-{kind.name}.gguf", "llama")
        writer.add_name("tiny-llama")
        writer.add_context_length(_POSITIONS)
        writer.add_embedding_length(_HIDDEN)
        writer.add_block_count(_LAYERS)
        writer.add_feed_forward_length(2 * _HIDDEN)
        writer.add_head_count(_HEADS)
        writer.add_head_count_kv(_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(_HIDDEN // _HEADS)
        writer.add_vocab_size(VOCABULARY)
        _add_gguf_tokenizer(writer)
        for name, shape in _llama_shapes().items():
            weights = _random(name, shape)
            if name == "output.weight":
                # Special pieces and lone bytes never win: llama.cpp holds bytes back until they make a character.
                weights[:LLAMA_SPECIAL] = 0
            if weights.ndim == 1:
                writer.add_tensor(name, weights)
            else:
                writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def llava_pixtral(directory: Path) -> None:
    """Write a model of images and text with Pixtral's processor, which needs torchvision."""
    _save_llava(directory)
    processor = {"processor_class": "PixtralProcessor", "patch_size": PATCH, "image_token": "[IMG]"}
    processor |= {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    _write_json(directory / "processor_config.json", processor)


def llava(directory: Path) -> None:
    """Write a model of images and text with Llava's own processor, which does without torchvision."""
    _save_llava(directory)
    processor = {"processor_class": "LlavaProcessor", "patch_size": PATCH, "image_token": "[IMG]"}
    processor |= {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 0}
    _write_json(directory / "processor_config.json", processor)


def phi3_7m(directory: Path) -> None:
    """Write a generating model of 7 million weights in bfloat16, 14 MB."""
    _save_large_phi3(directory, hidden=256, layers=8, intermediate=768)


def phi3_1b(directory: Path) -> None:
    """Write a generating model of 1.3 billion weights in bfloat16, 2.6 GB."""
    _save_large_phi3(directory, hidden=2048, layers=24, intermediate=6144)


MODELS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (bert, xlm_roberta, t5, phi3, phi3_sharded, llama_gguf, llava, llava_pixtral)
}

# Made only where they are named.
LARGE: dict[str, Callable[[Path], None]] = {function.__name__: function for function in (phi3_7m, phi3_1b)}


def _sizes() -> dict[str, int]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
    }


def _phi3_config() -> hf.Phi3Config:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return hf.Phi3Config(
        **_sizes(),
        **special,
        num_key_value_heads=_HEADS,
        intermediate_size=2 * _HIDDEN,
        max_position_embeddings=_POSITIONS,
        original_max_position_embeddings=_POSITIONS,
    )


def _save_large_phi3(directory: Path, hidden: int, layers: int, intermediate: int) -> None:
    config = _phi3_config()
    config.update({"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": intermediate})
    config.update({"num_attention_heads": hidden // 128, "num_key_value_heads": hidden // 128})
    config.dtype = "bfloat16"
    with torch.device("meta"):
        model = hf.Phi3ForCausalLM(config).to(torch.bfloat16)
    _save(model.to_empty(device="cpu"), directory, max_shard_size="10GB")
    _save_llama_tokenizer(directory)


def _llama_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, _HIDDEN),
        "output_norm.weight": (_HIDDEN,),
        "output.weight": (VOCABULARY, _HIDDEN),
    }
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (_HIDDEN,),
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (_HIDDEN, _HIDDEN)),
        "ffn_norm": (_HIDDEN,),
        "ffn_gate": (2 * _HIDDEN, _HIDDEN),
        "ffn_up": (2 * _HIDDEN, _HIDDEN),
        "ffn_down": (_HIDDEN, 2 * _HIDDEN),
    }
    for layer in range(_LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a weight that depends on its name and shape only; a vector ending in weight is a norm's, around 1.

    Random weights as libraries initialise them, 0.02 wide, give nearly the same output for every input. With these a
    layer returns about as much as it receives, so that inputs, layers and faults show in the output.
    """
    noise = np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return noise * np.float32(_VECTOR_SPREAD) + np.float32(name.endswith("weight"))
    if "embed" in name or "embd" in name:
        return noise
    gain = 1.0
    if name.endswith("Attention.q.weight"):
        # T5 does not divide by the root of the width of a head, as others do: its weights have to.
        gain = (_HIDDEN / _HEADS) ** -0.5
    elif name.endswith("attention.output.dense.weight"):
        # Of the other words, BERT's first one, which a reranker scores, hears through this matrix alone.
        gain = 3.0
    return noise * np.float32(gain / np.prod(shape[1:]) ** 0.5)


def _save(model: hf.PreTrainedModel, directory: Path, max_shard_size: int | str = "1GB") -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_random(name, tuple(parameter.shape))))
    model.save_pretrained(directory, max_shard_size=max_shard_size)


def _save_llama_tokenizer(directory: Path) -> None:
    vocabulary, merges = llama_vocabulary(VOCABULARY)
    template = (
        "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    tokenizer = hf.LlamaTokenizer(
        vocab=vocabulary, merges=merges, pad_token="</s>", chat_template=template, model_max_length=_POSITIONS
    )
    tokenizer.save_pretrained(directory)


def _add_gguf_tokenizer(writer: Any) -> None:
    """Add the pieces as llama.cpp wants them: pieces that are merged earlier have the higher score."""
    from gguf import TokenType  # noqa: PLC0415

    vocabulary, _merges = llama_vocabulary(VOCABULARY)
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    types += [TokenType.NORMAL] * (len(pieces) - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(index) if kind is TokenType.NORMAL else 0.0 for index, kind in enumerate(types)])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def _save_llava(directory: Path) -> None:
    special = ["<unk>", "<s>", "</s>", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    saved = hf.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(special, VOCABULARY),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=_POSITIONS,
    )
    saved.save_pretrained(directory)
    text = hf.MistralConfig(
        **_sizes(),
        num_key_value_heads=_HEADS // 2,
        head_dim=_HIDDEN // _HEADS,
        intermediate_size=2 * _HIDDEN,
        max_position_embeddings=_POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    vision = hf.PixtralVisionConfig(
        hidden_size=_HIDDEN,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=2 * _HIDDEN,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=special.index("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    _save(hf.LlavaForConditionalGeneration(config), directory)
    image_processor = {
        "image_processor_type": "PixtralImageProcessor",
        "patch_size": {"height": PATCH, "width": PATCH},
        "size": {"longest_edge": IMAGE_SIZE},
    }
    _write_json(directory / "preprocessor_config.json", image_processor)


def _change_config(directory: Path, **values: object) -> None:
    path = directory / "config.json"
    _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Make the models that are named, or all, each in a directory of its own name below the destination."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("destination", type=Path)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join([*MODELS, *LARGE]))
    arguments = parser.parse_args()
    known = MODELS | LARGE
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    hf.utils.logging.disable_progress_bar()
    for name in arguments.names or MODELS:
        directory = arguments.destination / name
        directory.mkdir(parents=True)
        known[name](directory)


if __name__ == "__main__":
    main()
