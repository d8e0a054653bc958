"""Tags of a caption in another order each time, or some of them left out."""

from __future__ import annotations

from diffusion_train.utils.rng import key_seed


class Tags:
    """Tags stand between separators; the first `keep` stay, in their places.

    `shuffle` puts the others into a random order, `dropout` is the probability of each of them to be left out; one
    tag at least remains. Without either a caption stays as it is.
    """

    def __init__(self, separator: str = ", ", keep: int = 0, shuffle: bool = False, dropout: float = 0.0) -> None:
        if not separator:
            raise ValueError("data.captions.tags.separator is empty: what stands between two tags is needed")
        if keep < 0:
            raise ValueError(f"data.captions.tags.keep={keep}: a number of tags, 0 or more")
        if not 0 <= dropout <= 1:
            raise ValueError(f"data.captions.tags.dropout={dropout}: a probability, 0 to 1")
        self.separator, self.keep, self.shuffle, self.dropout = separator, keep, shuffle, dropout
        self.settings = f"separator={separator!r}, keep={keep}, shuffle={shuffle}, dropout={dropout}"

    def __call__(self, text: str, *key: int) -> str:
        """The tags of `text` as drawn by `key`."""
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
        """Whether this text comes out the same whatever is drawn."""
        if not (self.shuffle or self.dropout):
            return True
        num_tags = len(self.split(text))
        return num_tags <= max(self.keep, 1) or (not self.dropout and num_tags <= self.keep + 1)

    def split(self, text: str) -> list[str]:
        parts = text.split(self.separator.strip() or self.separator)
        return [tag for part in parts if (tag := part.strip())]

    def join(self, tags: list[str]) -> str:
        return self.separator.join(tags)
