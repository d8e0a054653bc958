"""Decode a sample from the bytes of its members, after comparing their checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isal.isal_zlib import crc32

from diffusion_train.data.base import Sample
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import Members
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.header import ImageError
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.order.order import Draw
from diffusion_train.data.precomputed.latents import MIRRORED, PLAIN, NoLatents, PrecomputedLatents
from diffusion_train.data.shard.catalog import Catalog, Located, Numbers
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.storage.base import Range
from diffusion_train.utils.redact import redact_url

_IS_IMAGE = {*IMAGE_EXTENSIONS, PLAIN}.__contains__  # an image, or its latents


@dataclass(frozen=True, eq=False)
class SampleDecoder:
    """Decodes samples. `images` names further image members, such as {"mask": "mask.png"}; `latents` replace images.

    Without `verify` checksums are not compared.
    """

    preprocess: Preprocess
    captions: Captions
    images: Mapping[str, str]
    verify: bool = True
    latents: PrecomputedLatents | None = None

    def locate(self, catalog: Catalog, numbers: Numbers, draws: Sequence[Draw]) -> list[Located]:
        """Return the members to read for each draw of samples `numbers`: images (or latents), caption and metadata."""
        names = {*self.captions.extensions, *IMAGE_EXTENSIONS, *self.images.values(), *self.preprocess.extensions}
        members = catalog.members_of(numbers, names)
        return self.latents.substitute(members, catalog, numbers, self.preprocess, draws) if self.latents else members

    def decode(self, draw: Draw, key: str, located: Located, members: Members, is_sound: bool) -> Sample:
        """Decode a sample. `is_sound`: checksums need no comparison.

        Raises BadSample, and NoLatents if those are missing.
        """
        if not is_sound:
            _compare(key, located, members)
        image = next(filter(_IS_IMAGE, members))
        try:
            caption = self.captions(members, key, draw.epoch, draw.sample)
            texts = self.captions.said(members, key)
            if image == PLAIN:
                tensors = PrecomputedLatents.tensors(members, self.preprocess, draw, texts)
            else:
                others = self._others(members) if self.images else {}
                tensors = self.preprocess(members[image], draw, texts, others, members.get("json"))
        except ValueError as error:
            raise BadSample(key, located[image][0], str(error), getattr(error, "rule", "bad-sample")) from error
        if self.latents and image != PLAIN:
            raise NoLatents(f"sample {key!r} has no latents in data.encoded; run `diffusion-train encode` to add them")
        return dict(tensors, caption=caption, key=key, index=draw.sample, bad="")

    def _others(self, members: Members) -> dict[str, bytes]:
        if missing := [extension for extension in self.images.values() if extension not in members]:
            raise ImageError(f"no {missing[0]}")
        return {name: members[extension] for name, extension in self.images.items()}


class BadSample(Exception):
    """A sample that differs from the index or cannot be decoded."""

    def __init__(self, key: str, range_: Range, reason: str, rule: str = "bad-sample") -> None:
        super().__init__(f"{redact_url(range_.url)} at byte {range_.offset}: sample {key!r}: {reason}")
        self.problem = Problem(rule, redact_url(range_.url), reason, key, range_.offset)

    def line(self) -> str:
        """Return the problem as a line of JSON, which worker processes and Lightning pass on unchanged."""
        return json.dumps(vars(self.problem))


def _compare(key: str, located: Located, members: Members) -> None:
    for name, (range_, crc) in located.items():
        if crc32(members[name]) != crc:
            if name in (PLAIN, MIRRORED):
                raise NoLatents(
                    f"{redact_url(range_.url)} is damaged: a checksum differs; delete it and its index, and run "
                    "`diffusion-train encode` again"
                )
            raise BadSample(key, range_, "the checksum differs from the index: the shard was damaged or changed")
