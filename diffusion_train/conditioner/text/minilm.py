"""all-MiniLM-L6-v2: BERT with six layers, here without dropout and padding.

Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding". transformers has
it too, and returns the same bits, but takes seconds to import. B captions of l tokens, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

_NUM_LAYERS, _NUM_HEADS, _EPSILON = 6, 12, 1e-12


class Output(NamedTuple):
    """`last_hidden_state` (B, l, D), named as in transformers."""

    last_hidden_state: Tensor


class MiniLM:
    """The network with the weights in a safetensors file of their published names."""

    def __init__(self, file: Path) -> None:
        self.weights = load_file(file)

    def to(self, device: torch.device) -> MiniLM:
        self.weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return self

    def __call__(self, input_ids: Tensor, output_hidden_states: bool = False) -> Output:
        """Embed captions of equal length by their ids (B, l)."""
        assert not output_hidden_states
        words, kinds, positions = (
            self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type", "position")
        )
        x = self._norm(F.embedding(input_ids, words) + kinds[0] + positions[: input_ids.shape[1]], "embeddings")
        for number in range(_NUM_LAYERS):
            x = self._layer(x, f"encoder.layer.{number}")
        return Output(x)

    def _layer(self, x: Tensor, name: str) -> Tensor:
        query, key, value = (
            self._linear(x, f"{name}.attention.self.{part}").reshape(*x.shape[:2], _NUM_HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self._norm(self._linear(attended, f"{name}.attention.output.dense") + x, f"{name}.attention.output")
        hidden = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(self._linear(hidden, f"{name}.output.dense") + x, f"{name}.output")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x, weight.shape, weight, bias, _EPSILON)
