"""CLIP's text encoder, as Stable Diffusion uses it.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
"""

from __future__ import annotations

from diffusion_train.conditioner.text.transformers_encoder import TransformersEncoder, own_pool
from diffusion_train.pretrained.origin import part


class CLIPText(TransformersEncoder):
    """Embeds captions with CLIP, padded to `max_length` positions as Stable Diffusion was trained.

    text is the last hidden state of all positions, padding included; pooled is that of the end token. `source` is a
    folder or a model of the hub; in a Stable Diffusion pipeline weights and tokenizer are in the subfolders
    "text_encoder" and "tokenizer".
    """

    def __init__(self, source: str, max_length: int = 77, subfolder: str = "", tokenizer_subfolder: str = "") -> None:
        folder = part(source, "conditioner.encoder.source", subfolder, tokenizer_subfolder)
        weights, tokenizer = folder / subfolder, folder / tokenizer_subfolder
        super().__init__(weights, tokenizer, "CLIPTextModel", max_length, own_pool, padded=True)
