"""A class number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffusion_train.conditioner.base import Cond, Conditioner
from diffusion_train.utils.tensor import to_device


class Label(Conditioner):
    """`label` (B,) in 0 ... num_classes - 1, or num_classes for "no label".

    Labels are `batch["label"]` where the batch has them; otherwise captions are read as numbers or, where `names` are
    given, as names of classes; an empty caption is "no label". ValueError for what is no class.
    """

    reads_captions = True

    def __init__(self, num_classes: int, names: Sequence[str] = ()) -> None:
        super().__init__()
        if names and len(names) != num_classes:
            raise ValueError(f"conditioner.names has {len(names)} names for num_classes={num_classes}")
        self.num_classes = num_classes
        self.numbers = {name: number for number, name in enumerate(names or map(str, range(num_classes)))}
        self.numbers[""] = num_classes

    def forward(self, batch: dict[str, Any]) -> Cond:
        if "label" in batch:
            label = torch.as_tensor(batch["label"])
        else:
            label = torch.tensor([self._number(caption) for caption in batch["caption"]])
        if label.numel() and not 0 <= int(label.min()) <= int(label.max()) <= self.num_classes:
            raise ValueError(f"a label outside 0 ... {self.num_classes}: {label.tolist()}")
        return {"label": to_device(label, self.like.device, torch.int64)}

    def _number(self, caption: str) -> int:
        if caption.strip() not in self.numbers:
            known = [name for name in self.numbers if name]
            raise ValueError(
                f"{caption!r} is no class; classes are {', '.join(known[:20])}{' ...' * (len(known) > 20)}"
            )
        return self.numbers[caption.strip()]
