"""Word coverage: how often the training captions hold the words of prompts, and how the prompts' samples fare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from diffusion_train.report.facts import Band, ThinWord, WordCoverage

_BANDS = ((0, 0), (1, 2), (3, 9), (10, None))
_LETTERS = re.compile(r"[^\W_]+")
_SHOWN = 40


def words(caption: str) -> set[str]:
    return {word for word in _LETTERS.findall(caption.casefold()) if len(word) > 1}


class Coverage:
    """Support of prompts by training captions: the number of captions that hold the rarest word of the prompt.

    Words that more than half of the captions hold, such as a trigger or "logo", do not count. Every caption supports a
    prompt that has no other words.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self.num_captions = len(captions)
        self.counts = Counter(word for caption in captions for word in words(caption))
        self.common = {word for word, count in self.counts.items() if 2 * count > len(captions)}

    def support(self, prompt: str) -> int:
        return min((self.counts[word] for word in words(prompt) - self.common), default=self.num_captions)

    def table(self, prompts: Sequence[str], likeness: Sequence[float], flagged: Sequence[bool]) -> WordCoverage:
        """Return the coverage of samples by their prompts, likeness and flags, without bands that have no samples."""
        support = [self.support(prompt) for prompt in prompts]
        bands = []
        for low, high in _BANDS:
            chosen = [i for i, count in enumerate(support) if count >= low and (high is None or count <= high)]
            if chosen:
                band = Band(
                    band=str(low) if high == low else f"{low} to {high}" if high else f"{low} or more",
                    prompts=len({prompts[i] for i in chosen}),
                    samples=len(chosen),
                    likeness=sum(likeness[i] for i in chosen) / len(chosen),
                    flagged=sum(flagged[i] for i in chosen),
                )
                bands.append(band)
        asked = {word for prompt in prompts for word in words(prompt)} - self.common
        thin = sorted((self.counts[word], word) for word in asked if self.counts[word] < 3)
        shown = [ThinWord(word, count) for count, word in thin[:_SHOWN]]
        return WordCoverage(self.num_captions, bands, shown, len(thin), sorted(self.common)[:_SHOWN])
