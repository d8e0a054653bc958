"""Low-rank adaptation: W x becomes W x + scale * alpha / rank * B A x, where only A and B are trained.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from diffusion_train.utils.ranges import at_least

M = TypeVar("M", bound=nn.Module)

# The last parts of layer names, in networks of diffusers, in ours, and in text encoders of transformers.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "qkv", "text_kv", "out", "q_proj", "k_proj", "v_proj", "out_proj")
_ENDS = ("conv_in", "conv_out")  # of a U-Net of diffusers; kohya's sd-scripts does not adapt them
_INITS: dict[str, Any] = {"kaiming": True, "gaussian": "gaussian"}
_NAME = "default"  # of the adapter; peft can hold several


class LoRA:
    """Freezes a network and adds an adapter to every layer that `targets` selects; at the start it changes no output.

    `targets` selects linear layers and convolutions: "attention", "attention_and_convolutions" (all convolutions except
    diffusers' conv_in and conv_out), a list of name endings, or a regular expression for whole names. `alpha` null
    means `rank`. `scale` multiplies a trained adapter; 0 is the base model. `text_encoder` selects the layers that
    `on_text_encoder` adapts: true for attention, or a list of name endings. `text_encoder_lr` is read by the code that
    builds the optimizer. Raises ValueError if a target matches no layer.
    """

    def __init__(
        self,
        rank: int = 16,
        alpha: float | None = None,
        targets: str | Sequence[str] = "attention",
        dropout: float = 0.0,
        init: str = "kaiming",
        scale: float = 1.0,
        text_encoder: bool | Sequence[str] = False,
        text_encoder_lr: float | None = None,
    ) -> None:
        if rank < 1:
            raise ValueError(f"adapter.rank={rank}: must be at least 1")
        at_least(None, **{"adapter.alpha": alpha, "adapter.scale": scale})
        if alpha == 0:
            raise ValueError("adapter.alpha=0: every gradient would be 0; use null for adapter.rank")
        if not 0 <= dropout < 1:
            raise ValueError(f"adapter.dropout={dropout:g}: must be in [0, 1)")
        if init not in _INITS:
            raise ValueError(f"adapter.init={init}: must be one of {', '.join(_INITS)}")
        if text_encoder_lr is not None and not (text_encoder and 0 <= text_encoder_lr < math.inf):
            remedy = (
                "must be a finite number of at least 0"
                if text_encoder
                else "no text encoder is adapted; add adapter.text_encoder=true"
            )
            raise ValueError(f"adapter.text_encoder_lr={text_encoder_lr:g}: {remedy}")
        self.rank, self.alpha, self.targets = rank, rank if alpha is None else alpha, targets
        self.dropout, self.init, self.scale = dropout, init, scale
        self.text_encoder = "attention" if text_encoder is True else text_encoder or ()

    def __call__(self, network: nn.Module) -> nn.Module:
        """Adapt the layers that `targets` selects, in place, and return the network."""
        return self._placed(network, self.targets, "adapter.targets")

    def on_text_encoder(self, encoder: nn.Module) -> nn.Module:
        """Adapt the layers that `text_encoder` selects. Raises ValueError if an entry matches no layer."""
        return self._placed(encoder, self.text_encoder, "adapter.text_encoder")

    def _placed(self, network: nn.Module, targets: str | Sequence[str], key: str) -> nn.Module:
        import peft

        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft annotates int but accepts float
            target_modules=targeted(network, targets, key),
            lora_dropout=self.dropout,
            init_lora_weights=_INITS[self.init],
        )
        peft.inject_adapter_in_model(config, network.requires_grad_(False), _NAME)
        for layer in lora_layers(network).values():
            layer.set_scale(_NAME, self.scale)
        for parameter in network.parameters():
            if parameter.requires_grad:  # peft uses the base's precision, which rounds small steps away
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        return network


def targeted(network: nn.Module, targets: str | Sequence[str], key: str = "adapter.targets") -> list[str]:
    """Return the names of the layers to adapt. Raises ValueError, which names `key`, if a target matches none."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    found: set[str] = set()
    for target, fits in _tests(targets, key):
        chosen = {name for name, layer in layers.items() if fits(name, layer)}
        if not chosen:
            raise ValueError(
                f"{key}={target}: no layer of {type(network).__name__} matches; its layer names end in "
                f"{', '.join(sorted({_ending(name) for name in layers}))}; give a list of such endings, or a regular "
                "expression for whole names ('.*' matches all layers)"
            )
        found |= chosen
    return sorted(found)


def lora_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers with an adapter, by the names they have without it."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}


def merge(network: M) -> M:
    """Add the adapters to the weights of the network, in place, and return it; without adapters it stays as it is."""
    for layer in lora_layers(network).values():
        layer.merge()
    return without(network)


def without(network: M) -> M:
    """Remove the adapters from the network, in place, and return it; without adapters it stays as it is."""
    for name, layer in lora_layers(network).items():
        network.set_submodule(name, layer.get_base_layer())
    return network


Fits = Callable[[str, nn.Module], bool]


def _tests(targets: str | Sequence[str], key: str) -> Iterator[tuple[str, Fits]]:
    """Yield each target as messages name it, with a function that says whether it selects a layer."""
    if not isinstance(targets, str):
        for ending in targets:
            yield ending, lambda name, _, ending=ending: _ends(name, (ending,))  # type: ignore[misc]
    elif targets == "attention":
        yield targets, lambda name, _: _ends(name, _ATTENTION)
    elif targets == "attention_and_convolutions":
        yield (
            targets,
            lambda name, layer: _ends(name, _ATTENTION) or (isinstance(layer, nn.Conv2d) and not _ends(name, _ENDS)),
        )
    else:
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise ValueError(f"{key}={targets}: not a regular expression: {error}") from error
        yield targets, lambda name, _: pattern.fullmatch(name) is not None


def _ends(name: str, endings: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{ending}") for ending in endings)


def _ending(name: str) -> str:
    """Return the last part of a name; numbers at the end are kept with the part before them."""
    match = re.search(r"[^.]*(\.\d+)*$", name)
    return match[0] if match else name
