"""The encoder of T5.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".
"""

from __future__ import annotations

from diffusion_train.conditioner.text.transformers_encoder import TransformersEncoder, no_pool
from diffusion_train.pretrained.origin import part


class T5(TransformersEncoder):
    """Embeds captions with T5: text is the last hidden state of each token; there is no pooled embedding.

    `source` is a folder or a model of the hub. In a pipeline, `subfolder` names the encoder's, such as
    "text_encoder_3".
    """

    def __init__(self, source: str, max_length: int = 77, subfolder: str = "", tokenizer_subfolder: str = "") -> None:
        folder = part(source, "conditioner.encoder.source", subfolder, tokenizer_subfolder)
        super().__init__(folder / subfolder, folder / tokenizer_subfolder, "T5EncoderModel", max_length, no_pool)
