"""Text encoders of transformers, loaded from local safetensors files; code in the model's folder is never run."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.conditioner.text.encoder import Embedding, TextEncoder
from diffusion_train.conditioner.text.online_text import OnlineText, Part
from diffusion_train.pretrained.foreign_keys import KEYS, check_text_encoder
from diffusion_train.pretrained.weight_files import Weights, check_complete, find_whole
from diffusion_train.utils.files import file_sha256
from diffusion_train.utils.process.importing import many_imports

_FORMAT = 2  # increased if the same files would give other embeddings
_ROWS = 8  # always the batch size: matrix products of another shape may round differently
_TOKENIZED_AT_ONCE = 10_000
_SAFE = {"local_files_only": True, "trust_remote_code": False}
_KINDS = ("*.safetensors", "*.json", "*.txt", "*.model")  # of files that determine an embedding


class TransformersEncoder(TextEncoder):
    """A text encoder of transformers; the weights are loaded when a caption is first embedded.

    `model` is the name of a class of transformers. `read` returns text (B, l, D) and `pool` pooled (B, P) of its
    output. Captions are grouped by their number of tokens, so that none is padded. With `padded`, every caption is
    padded to `max_length` instead, for models that were trained on embeddings of the padding. When the weights are
    loaded, raises ValueError if there are no safetensors files of them or the encoder has fewer positions than
    `max_length`.
    """

    def __init__(
        self,
        weights: Path,
        tokenizer: Path,
        model: str,
        max_length: int,
        pool: Callable[[Any], Tensor],
        padded: bool = False,
        normalize: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        read: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.weights, self.tokenizer, self.model = weights, tokenizer, model
        self.max_length, self.pool, self.padded, self.normalize = max_length, pool, padded, normalize
        self.read = read or last_layer
        self._model: Any = None
        self.longest = _positions(weights)
        if model in KEYS:
            check_text_encoder(model, weights, tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the settings, the version of transformers, and the files of weights and tokenizer."""
        settings = (
            _FORMAT,
            version("transformers"),
            self.model,
            self.max_length,
            self.padded,
            self.normalize is not None,
            self.read.__name__,
        )
        total = hashlib.sha256(repr(settings).encode())
        for folder in (self.weights, self.tokenizer):
            for file in sorted({file for kind in _KINDS for file in folder.glob(kind)}):
                total.update(f"{file.name} {file_sha256(file)} ".encode())
        return total.hexdigest()[:32]

    def embed(self, captions: Sequence[str], device: torch.device) -> Iterator[tuple[str, Embedding]]:
        model = self._load().to(device)
        for start in range(0, len(captions), _TOKENIZED_AT_ONCE):
            by_length = defaultdict(list)
            for caption, ids, truncated in self._tokenized(captions[start : start + _TOKENIZED_AT_ONCE]):
                by_length[len(ids)].append((caption, ids, truncated))
            for _, group in sorted(by_length.items()):
                for first in range(0, len(group), _ROWS):
                    chunk = group[first : first + _ROWS]
                    rows = self._rows(model, [ids for _, ids, _ in chunk], device)
                    for (caption, _, truncated), row in zip(chunk, rows, strict=True):
                        yield caption, Embedding(*row, truncated)

    def num_tokens(self, captions: Sequence[str]) -> list[int]:
        """Return the number of tokens of each caption, uncut."""
        texts = list(map(_encodable, captions))
        return [len(ids) for ids in self._token_ids(texts)] if texts else []

    def _token_ids(self, texts: list[str], cut: bool = False) -> list[list[int]]:
        """Return the ids of the tokens of each text; with `cut`, at most `max_length`, or exactly if `padded`."""
        options: dict[str, Any] = {"padding": False, "truncation": False, "verbose": False}
        if cut:
            options = {
                "padding": "max_length" if self.padded else False,
                "truncation": True,
                "max_length": self.max_length,
            }
        ids: list[list[int]] = self._tokenizer(texts, **options)["input_ids"]
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        with many_imports():
            import transformers

            return transformers.AutoTokenizer.from_pretrained(self.tokenizer, **_SAFE)

    @cached_property
    def _files(self) -> Weights:
        return find_whole(self.weights, str(self.weights))

    def check_weights(self) -> None:
        _ = self._files

    def unload(self) -> None:
        self._model = None

    def online(self) -> OnlineText:
        return OnlineText({"text_encoder": self.part()}) if self.padded else super().online()

    def part(self) -> Part:
        """Return the encoder as a part of an OnlineText, which then owns the weights; the encoder must be `padded`."""
        assert self.padded
        assert self.normalize is None
        model = self._load()
        self.unload()
        read = self.read
        if (read, self.pool) == (layer_before_last, no_pool):
            read = last_layer
            _cut_last_layer(model)
        return Part(model, self._ids, partial(_run, read=read, pool=self.pool))

    def _load(self) -> Any:
        if self._model is None:
            model = self._read_model()
            if self.longest is not None and self.max_length > self.longest:
                raise ValueError(
                    f"conditioner.encoder.max_length={self.max_length}: must be at most the encoder's {self.longest} "
                    "positions"
                )
            self._model = model
        return self._model

    def _read_model(self) -> Any:
        with many_imports():
            import transformers

            transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            model_class = getattr(transformers, self.model)  # which imports its module
        # Loading draws from the global generator, at a step that differs between runs: keep its state.
        with torch.random.fork_rng(devices=[]):
            options = {"use_safetensors": True, "dtype": torch.float32, **_SAFE, **self._files.arguments}
            model, loaded = model_class.from_pretrained(self.weights, output_loading_info=True, **options)
        check_complete(loaded["missing_keys"], str(self.weights))
        return model.eval().requires_grad_(False)

    def _rows(self, model: Any, ids: list[list[int]], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Return (text, pooled) of captions of equal length, which are filled up to `_ROWS` rows."""
        filled = [*ids, *[ids[-1]] * (_ROWS - len(ids))]
        with torch.no_grad():
            output = _run(model, torch.tensor(filled, device=device), self.read, self.pool)
        texts, pooled = (value.cpu() for value in output)
        if self.normalize is not None:
            texts, pooled = self.normalize(texts, pooled)
        return list(zip(texts, pooled, strict=True))[: len(ids)]

    def _ids(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the ids of each caption, and whether it was cut."""
        _, ids, truncated = zip(*self._tokenized(captions), strict=True)
        return list(ids), list(truncated)

    def _tokenized(self, captions: Sequence[str]) -> Iterator[tuple[str, list[int], bool]]:
        texts = list(map(_encodable, captions))
        for caption, all_ids, ids in zip(
            captions, self._token_ids(texts), self._token_ids(texts, cut=True), strict=True
        ):
            yield caption, ids, len(all_ids) > self.max_length


def _positions(folder: Path) -> int | None:
    """Return the number of positions that an encoder was trained for; None if it has no such number."""
    file = folder / "config.json"
    stated = json.loads(file.read_text("utf-8")).get("max_position_embeddings") if file.is_file() else None
    return stated if isinstance(stated, int) else None


def _encodable(caption: str) -> str:
    """Replace lone halves of surrogate pairs, which tokenizers reject, by U+FFFD."""
    return caption.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def last_layer(output: Any) -> Tensor:
    """Return the last hidden state (B, l, D)."""
    text: Tensor = output.last_hidden_state
    return text


def layer_before_last(output: Any) -> Tensor:
    """Return the hidden state (B, l, D) of the layer before the last, as SDXL uses it."""
    text: Tensor = output.hidden_states[-2]
    return text


own_pool = attrgetter("pooler_output")  # CLIP's: the last hidden state at the end token
projected_pool = attrgetter("text_embeds")  # the same, projected to the space where CLIP compares images and texts


def mean_pool(output: Any) -> Tensor:
    """Return the mean (B, D) of the last hidden state over tokens."""
    mean: Tensor = output.last_hidden_state.mean(1)
    return mean


def no_pool(output: Any) -> Tensor:
    """Return (B, 0): no pooled embedding."""
    empty: Tensor = output.last_hidden_state[:, 0, :0]
    return empty


def _cut_last_layer(model: Any) -> None:
    """Remove the last layer of a CLIP model that is read before it.

    No gradient would reach that layer, but distributed training needs a gradient of every trained parameter.
    """
    body = getattr(model, "text_model", model)
    body.encoder.layers = body.encoder.layers[:-1]
    body.final_layer_norm = nn.Identity()


def _run(
    model: Any, ids: Tensor, read: Callable[[Any], Tensor], pool: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return text (B, l, D) and pooled (B, P) for ids (B, l), in the precision of the weights even under autocast."""
    with torch.autocast(ids.device.type, enabled=False):
        output = model(input_ids=ids, output_hidden_states=read is not last_layer)
        return read(output), pool(output)
