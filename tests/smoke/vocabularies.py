"""Vocabularies of the four kinds that tokenizers have, from a text that is here; the same each time."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "Hello world, this is a small text.",
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "A server in the data centre computes the same answer every time it is asked.",
    "What is the capital of France? Paris is the capital of France.",
    "How many people live in Berlin, and how many live in London?",
    "Berlin has a population of about 3.7 million people.",
    "Translate English to German: the house is wonderful.",
    "Summarise the report on the weather of the last week in one sentence.",
    "Rain is expected in the north, and the south stays dry and warm.",
    "Graphics cards multiply large matrices of numbers faster than processors do.",
    "Memory errors are rare, but they change results without any warning.",
    "She bought fresh bread, cheese and apples at the market on Saturday.",
    "The patient was given medicine for pain and sent home after two days.",
    "Stock prices fell sharply as investors sold shares of the bank.",
    "Football players train four times a week before an important game.",
    "def add(first, second): return first + second",
    "Open the file, read each line and count how often every word occurs.",
    "Describe this picture: a red square on a white background.",
    "Water boils at 100 degrees Celsius at the level of the sea.",
    "An old castle stands on the hill above the village and its vineyards.",
    "Please list three reasons why tests should fail when the code is wrong.",
    "Music was playing quietly while the children slept in the next room.",
    "The train from Hamburg arrives at half past nine on platform seven.",
    "user: answer in one word. assistant: yes or no",
]

# Llama's tokenizer begins with three special pieces and one for each byte.
LLAMA_SPECIAL = 3 + 256

_ASCII = [chr(code) for code in range(33, 127)]


def word_pieces(special: list[str], size: int) -> list[str]:
    """Return pieces as BERT has them, in lower case, the special ones first.

    They are counted, not trained: the trainers of such pieces and of unigrams give other ones each time.
    """
    pieces = [*special, *_ASCII, *(f"##{character}" for character in _ASCII)]
    pieces += [word for word, _count in _words(str.lower) if len(word) > 1]
    return pieces[:size]


def _words(change: Callable[[str], str] = str) -> list[tuple[str, int]]:
    """Return the words of the corpus, the most frequent first, with how often each occurs."""
    counts = Counter(word for sentence in SENTENCES for word in re.findall(r"\w+", change(sentence)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def unigram(special: list[str], size: int) -> list[tuple[str, float]]:
    """Return pieces and the logarithms of their frequencies, the special ones first."""
    words = _words()
    total = sum(count for _word, count in words)
    pieces = [*((piece, 0.0) for piece in special), ("▁", -2.0), *((character, -12.0) for character in _ASCII)]
    pieces += [(f"▁{word}", math.log(count / total)) for word, count in words]
    return pieces[:size]


def llama_vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return pieces with their numbers, and merges, for a tokenizer that falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokenizer.get_vocab(), [tuple(merge) for merge in merges]


def byte_level(special: list[str], size: int) -> Tokenizer:
    """Return a tokenizer as Pixtral's text model has it, which puts the second special piece before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[1]} $A", special_tokens=[(special[1], 1)]
    )
    return tokenizer
