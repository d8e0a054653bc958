"""Class labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from diffusion_train.conditioner.base import Cond, Conditioner
from diffusion_train.utils.tensor import to_device


class Label(Conditioner):
    """Returns `label` (B,) in 0 ... num_classes - 1, or num_classes for "no label".

    Labels come from `batch["label"]` if the batch has it. Otherwise captions are read as class names if `names` is set,
    else as numbers; an empty caption is "no label". Raises ValueError for any other label or caption.
    """

    reads_captions = True

    def __init__(self, num_classes: int, names: Sequence[str] = ()) -> None:
        super().__init__()
        if names and len(names) != num_classes:
            raise ValueError(f"conditioner.names must have num_classes={num_classes} names, got {len(names)}")
        self.num_classes = num_classes
        self.numbers = {name: number for number, name in enumerate(names or map(str, range(num_classes)))}
        self.numbers[""] = num_classes

    def forward(self, batch: dict[str, Any]) -> Cond:
        if "label" in batch:
            label = torch.as_tensor(batch["label"])
        else:
            label = torch.tensor([class_number(self.numbers, caption) for caption in batch["caption"]])
        if label.numel() and not 0 <= int(label.min()) <= int(label.max()) <= self.num_classes:
            raise ValueError(f"labels must be in 0 ... {self.num_classes}, got {label.tolist()}")
        return {"label": to_device(label, self.like.device, torch.int64)}

    def caption_check(self) -> Callable[[str], object]:
        return partial(class_number, self.numbers)


def class_number(numbers: Mapping[str, int], caption: str) -> int:
    """Return the number of the class that a caption names. Raises ValueError."""
    if caption.strip() not in numbers:
        known = [name for name in numbers if name]
        raise ValueError(f"{caption!r} is not a class; classes are {', '.join(known[:20])}{' ...' * (len(known) > 20)}")
    return numbers[caption.strip()]
