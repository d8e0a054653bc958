"""Draws -> samples: what they need is read, compared with its checksum, and made what is trained on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import Members
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.header import ImageError
from diffusion_train.data.image.preprocess import View
from diffusion_train.data.order.order import Draw
from diffusion_train.data.precomputed.encoded import MIRRORED, PLAIN, EncodedImages, NoLatents
from diffusion_train.data.read_ahead import Reading
from diffusion_train.data.shard.catalog import Collection
from diffusion_train.data.shard.problem import DataError, Problem
from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.utils.redact import redact_url
from diffusion_train.utils.rng import key_seed

Sample = dict[str, Any]
Wanted = dict[str, tuple[Range, int]]  # member: where it lies, the checksum it should have
_MAX_SUBSTITUTES = 16
_IS_IMAGE = {*IMAGE_EXTENSIONS, PLAIN}.__contains__  # or what is in its place


@dataclass(frozen=True, eq=False)
class Reader:
    """Sample i of a draw is `samples[i]` of the collection; `fingerprint` stands for these.

    A sample that cannot be read as it was indexed, or whose image or caption cannot be decoded, is replaced by another
    one, always the same for it; "bad" tells of it. `images` names further image members of a sample, such as
    {"mask": "mask.png"}. `encoded` has latents in place of images. Without `verify` no checksum is compared.
    """

    collection: Collection
    samples: NDArray[np.int64]
    fingerprint: str
    view: View
    captions: Captions
    images: Mapping[str, str]
    storage: StorageByScheme
    verify: bool = True
    encoded: EncodedImages | None = None

    @property
    def collections(self) -> list[Collection]:
        """All that it reads of."""
        encoded = self.encoded.entries.collection if self.encoded else None
        return [self.collection, *([encoded] if encoded else [])]

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        return self.begin(draws).finish()

    def begin(self, draws: Sequence[Draw]) -> Reading:
        wanted = self._wanted(draws)
        places = [one for members in wanted for one in members.values()]
        num_bytes, finish = self.storage.begin([place for place, _ in places])

        def samples() -> list[Sample]:
            parts = finish()
            is_sound = not self.verify or list(map(crc32, parts)) == [crc for _, crc in places]
            rest = iter(parts)
            members = [{name: next(rest) for name in names} for names in wanted]
            return list(
                map(self._made_or_replaced, draws, self._keys(draws), wanted, members, itertools.repeat(is_sound))
            )

        return Reading(num_bytes, samples)

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        """Begins to fetch what they need into a cache; False where too much waits to be fetched already."""
        return self.storage.prefetch([place for members in self._wanted(draws) for place, _ in members.values()])

    def _wanted(self, draws: Sequence[Draw]) -> list[Wanted]:
        """What is read for each draw: its image, further images, what its caption and view are made of."""
        names = {*self.captions.extensions, *IMAGE_EXTENSIONS, *self.images.values(), *self.view.extensions}
        numbers = self._numbers(draws)
        members = self.collection.members_of(numbers, names)
        return self.encoded.in_place(members, self.collection, numbers, self.view, draws) if self.encoded else members

    def _numbers(self, draws: Sequence[Draw]) -> NDArray[np.int64]:
        return self.samples[[draw.sample for draw in draws]]

    def _keys(self, draws: Sequence[Draw]) -> list[str]:
        return self.collection.keys(self._numbers(draws))

    def _made_or_replaced(self, draw: Draw, key: str, wanted: Wanted, members: Members, is_sound: bool) -> Sample:
        """`is_sound`: nothing is left to compare."""
        try:
            return self._made(draw, key, wanted, members, is_sound)
        except BadSample as error:
            return self._substitute(draw, error)

    def _substitute(self, draw: Draw, bad: BadSample) -> Sample:
        for attempt in range(_MAX_SUBSTITUTES):
            index = key_seed("substitute", self.fingerprint, draw.sample, attempt) % len(self.samples)
            other = draw._replace(sample=index)
            [wanted], [key] = self._wanted([other]), self._keys([other])
            parts = self.storage.read([place for place, _ in wanted.values()])
            members = dict(zip(wanted, parts, strict=True))
            try:
                return {**self._made(other, key, wanted, members, not self.verify), "bad": bad.told()}
            except BadSample:
                continue
        raise DataError(f"{bad}; none of {_MAX_SUBSTITUTES} other samples tried in its place can be read either")

    def _made(self, draw: Draw, key: str, wanted: Wanted, members: Members, is_sound: bool) -> Sample:
        if not is_sound:
            self._compare(key, wanted, members)
        image = next(filter(_IS_IMAGE, members))
        try:
            caption = self.captions(members, key, draw.epoch, draw.sample)
            texts = self.captions.said(members, key)
            if image == PLAIN:
                tensors = EncodedImages.tensors(members, self.view, draw, texts)
            else:
                others = self._others(members) if self.images else {}
                tensors = self.view(members[image], draw, texts, others, members.get("json"))
        except ValueError as error:
            raise BadSample(key, wanted[image][0], str(error), getattr(error, "rule", "bad-sample")) from error
        if self.encoded and image != PLAIN:
            raise NoLatents(f"sample {key!r} has no latents in data.encoded; `diffusion-train encode` makes them")
        return dict(tensors, caption=caption, key=key, index=draw.sample, bad="")

    def _compare(self, key: str, wanted: Wanted, members: Members) -> None:
        for name, (place, crc) in wanted.items():
            if crc32(members[name]) != crc:
                if name in (PLAIN, MIRRORED):
                    raise NoLatents(
                        f"{redact_url(place.url)} was damaged, by its checksum: delete it and its index, and give the command "
                        "`diffusion-train encode` again"
                    )
                raise BadSample(key, place, "the checksum differs from the index: the shard was damaged or changed")

    def _others(self, members: Members) -> dict[str, bytes]:
        if missing := [extension for extension in self.images.values() if extension not in members]:
            raise ImageError(f"no {missing[0]}")
        return {name: members[extension] for name, extension in self.images.items()}


class BadSample(Exception):
    """A sample that is not what was indexed or cannot be decoded."""

    def __init__(self, key: str, place: Range, reason: str, rule: str = "bad-sample") -> None:
        super().__init__(f"{redact_url(place.url)} at byte {place.offset}: sample {key!r}: {reason}")
        self.problem = Problem(rule, redact_url(place.url), reason, key, place.offset)

    def told(self) -> str:
        """A line of JSON: plain text travels from worker processes and through Lightning unchanged."""
        return json.dumps(vars(self.problem))
