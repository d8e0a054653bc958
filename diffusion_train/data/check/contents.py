"""Rules that need the bytes of a sample: its image is decoded as in training, its caption read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.collection import Collection
from diffusion_train.data.decode import IMAGE_EXTENSIONS
from diffusion_train.data.header import ImageError, image_header
from diffusion_train.data.order import Draw
from diffusion_train.data.problem import Problem
from diffusion_train.data.storage.base import Storage
from diffusion_train.data.view import View
from diffusion_train.utils.redact import redact_url

_CHUNK = 64  # samples read at once


def of_contents(collection: Collection, captions: Captions, view: View, storage: Storage) -> Iterator[Problem]:
    wanted = {*IMAGE_EXTENSIONS, *captions.extensions, "json"}
    for start in range(0, len(collection), _CHUNK):
        samples = range(start, min(start + _CHUNK, len(collection)))
        places = [{n: p for n, (p, _) in collection.members(s).items() if n in wanted} for s in samples]
        parts = iter(storage.read([place for members in places for place in members.values()]))
        for sample, members in zip(samples, places, strict=True):
            data = {name: next(parts) for name in members}
            key, shard = collection.key(sample), redact_url(collection.urls[collection.shard(sample)])
            for name, rule, detail in faults(data, key, captions, view, sample):
                yield Problem(rule, shard, detail, key, members[name].offset if name in members else None)


def faults(
    data: Mapping[str, bytes], key: str, captions: Captions, view: View, sample: int
) -> Iterator[tuple[str, str, str]]:
    """(member, rule, detail)"""
    for name in data.keys() & set(IMAGE_EXTENSIONS):
        for rule, detail in image_faults(data[name], data.get("json"), view, sample):
            yield name, rule, detail
    for fault in captions.faults(data, key):
        if fault.rule != "missing-caption":  # the index tells it
            yield next((name for name in captions.extensions if name in data), ""), *fault
    try:
        json.loads(data.get("json", b"{}"))
    except (ValueError, RecursionError):
        yield "json", "malformed-json", "its json cannot be read"


def image_faults(image: bytes, metadata: bytes | None, view: View, sample: int) -> Iterator[tuple[str, str]]:
    try:
        header = image_header(image)
    except ImageError:
        return  # the index tells it
    if header.rotated:
        yield "exif-rotation", f"EXIF orientation {header.orientation}: it is turned when read"
    if header.alpha:
        yield "transparent-image", "what is transparent shows data.background"
    if header.animated:
        yield "animated-image", "only its first frame is used"
    if header.bits > 8:
        yield "deep-image", f"{header.bits} bits a channel become 8"
    try:
        view(image, Draw(0, sample), (), {}, metadata)
    except ImageError as error:
        yield "undecodable-image", str(error)
