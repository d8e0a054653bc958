"""Shuffle the tags of a caption, or drop some of them."""

from __future__ import annotations

from diffusion_train.utils.rng import key_seed


class Tags:
    """Augments captions that consist of tags between separators; the first `keep` tags stay where they are.

    `shuffle` puts the others into a random order, and each of them is dropped with probability `dropout`; at least one
    tag remains. Without both a caption does not change. Raises ValueError for impossible settings.
    """

    def __init__(self, separator: str = ", ", keep: int = 0, shuffle: bool = False, dropout: float = 0.0) -> None:
        if not separator:
            raise ValueError("data.captions.tags.separator: must not be empty; give the text between two tags")
        if keep < 0:
            raise ValueError(f"data.captions.tags.keep={keep}: must be at least 0")
        if not 0 <= dropout <= 1:
            raise ValueError(f"data.captions.tags.dropout={dropout}: must be a probability from 0 to 1")
        self.separator, self.keep, self.shuffle, self.dropout = separator, keep, shuffle, dropout
        self.settings = f"separator={separator!r}, keep={keep}, shuffle={shuffle}, dropout={dropout}"

    def __call__(self, text: str, *key: int) -> str:
        """Return `text` with its tags as drawn by `key` (seed, epoch, sample)."""
        if not (self.shuffle or self.dropout) or self.is_fixed(text):
            return text
        tags = self.split(text)
        indices = list(range(self.keep, len(tags)))
        if self.dropout:
            drawn = {index: key_seed("tag dropout", *key, index) for index in indices}
            indices = [index for index in indices if drawn[index] >= self.dropout * 2**63]
            if not indices and not self.keep:
                indices = [max(drawn, key=drawn.__getitem__)]
        if self.shuffle:
            indices = sorted(indices, key=lambda index: key_seed("tag order", *key, index))
        return self.join([*tags[: self.keep], *(tags[index] for index in indices)])

    def is_fixed(self, text: str) -> bool:
        """Whether this text never changes, whatever is drawn."""
        if not (self.shuffle or self.dropout):
            return True
        num_tags = len(self.split(text))
        return num_tags <= max(self.keep, 1) or (not self.dropout and num_tags <= self.keep + 1)

    def split(self, text: str) -> list[str]:
        parts = text.split(self.separator.strip() or self.separator)
        return [tag for part in parts if (tag := part.strip())]

    def join(self, tags: list[str]) -> str:
        return self.separator.join(tags)
