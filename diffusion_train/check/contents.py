"""Rules that need the contents of a sample: its image is decoded as in training, and its caption is read."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from diffusion_train.check.samples import Members, Samples, small_members
from diffusion_train.data.caption.fault import MAX_BYTES as MAX_CAPTION
from diffusion_train.data.caption.fault import CaptionError
from diffusion_train.data.caption.tokens import Tokens
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS, MAX_PIXELS
from diffusion_train.data.image.ground import is_blank
from diffusion_train.data.image.header import Header, ImageError, image_header
from diffusion_train.data.image.profile import profile_use
from diffusion_train.data.image.transform import AlignedError
from diffusion_train.data.order.order import Draw
from diffusion_train.data.selection import Mask
from diffusion_train.data.shard.problem import Problem
from diffusion_train.metric.near_duplicates import SIGNATURE, Signatures, signature
from diffusion_train.rights.validity import rights_faults
from diffusion_train.utils.process.workers import Workers, available

_CHUNK = 256  # samples in one task of a process


@dataclass
class Contents:
    """Problems of the contents.

    `looks` (n,) are signatures of the images; `decoded` (n,) is True for those that have one.
    """

    problems: list[Problem]
    looks: Signatures
    decoded: Mask


def of_contents(samples: Samples, tokens: Tokens | None = None, num_workers: int | None = None) -> Contents:
    """Read all samples and return their problems, in the order of the samples. Raises StorageError or WorkerDied."""
    count = len(samples.catalog)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    wanted = available() if num_workers is None else num_workers
    contents = Contents([], np.zeros(count, SIGNATURE), np.zeros(count, bool))
    with (
        Workers(min(wanted, len(chunks)) if len(chunks) > 1 else 0) as workers,
        tqdm(desc="Checking", total=count, unit="sample", mininterval=0.5, disable=None) as bar,
    ):
        for chunk, looks in zip(chunks, workers.map(partial(look, samples, tokens is not None), chunks), strict=True):
            for sample, seen in zip(chunk, looks, strict=True):
                contents.problems += seen.problems
                if seen.signature:
                    contents.looks[sample] = np.frombuffer(seen.signature, SIGNATURE)[0]
                    contents.decoded[sample] = True
            if tokens:
                contents.problems += long_captions(looks, tokens)
            bar.update(len(chunk))
    return contents


@dataclass
class Look:
    """The result for one sample.

    `signature` is empty if no image was decoded; `captions` if they were not asked for.
    """

    shard: str
    key: str
    problems: list[Problem] = field(default_factory=list)
    signature: bytes = b""
    captions: list[str] = field(default_factory=list)


def look(samples: Samples, with_captions: bool, chunk: Sequence[int]) -> list[Look]:
    """Read and decode these samples; `with_captions` also returns every caption of each."""
    if multiprocessing.parent_process():
        torch.set_num_threads(1)  # there is one process for each processor
    catalog = samples.catalog
    looks = []
    for sample, members in zip(chunk, samples.read(chunk), strict=True):
        seen = Look(catalog.printable_shard(sample), catalog.key(sample))
        for name, rule, detail in _faults(samples, sample, members, seen):
            offset = members[name].span.offset if name in members else None
            seen.problems.append(Problem(rule, seen.shard, detail, seen.key, offset))
        if with_captions:
            seen.captions = _every_caption(samples, sample, members)
        looks.append(seen)
    return looks


def long_captions(looks: Sequence[Look], tokens: Tokens) -> Iterator[Problem]:
    """Yield a problem for each sample with a caption that the text encoder cuts, about its longest one."""
    counts = dict.fromkeys((text for seen in looks for text in seen.captions), 0)
    counts.update(zip(counts, tokens.count(list(counts)), strict=True) if counts else ())
    for seen in looks:
        longest = max((counts[text] for text in seen.captions), default=0)
        if longest > tokens.most:
            detail = f"{longest} tokens; {tokens.encoder} takes at most {tokens.most}"
            yield Problem("long-caption", seen.shard, detail, seen.key)


Found = Iterator[tuple[str, str, str]]  # member, rule, detail


def _faults(samples: Samples, sample: int, members: Members, seen: Look) -> Found:
    whole = {name: member.data for name, member in members.items() if member.intact and member.data is not None}
    for name, member in members.items():
        if not member.intact:
            yield name, "checksum", f"the checksum of {name} differs from the index"
    for name in IMAGE_EXTENSIONS:
        if name in whole:
            yield from _image_faults(samples, sample, name, whole, seen)
    for extension in sorted({*samples.images.values()} - members.keys()):
        yield extension, "further-image", f"the member {extension} of data.images is missing"
    yield from _caption_faults(samples, members, whole, seen.key)
    if "json" in whole:
        yield from _metadata_faults(samples, whole["json"])


def _metadata_faults(samples: Samples, data: bytes) -> Found:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        if "json" not in {*samples.captions.extensions, *samples.preprocess.extensions}:  # else reported by these
            yield "json", "malformed-json", "its json cannot be read"
        return
    if isinstance(facts, dict):
        yield from (("json", rule, detail) for rule, detail in rights_faults(facts, date.today()).items())


def _image_faults(samples: Samples, sample: int, name: str, whole: dict[str, bytes], seen: Look) -> Found:
    try:
        header = image_header(whole[name])
        if header.width * header.height > MAX_PIXELS:
            return  # reported from the index, as are files that are not images
    except ImageError:
        return
    draw = samples.draw(sample, header.width, header.height)
    try:
        image = samples.preprocess.decode(whole[name], draw)
    except ImageError as error:
        yield name, "undecodable-image", str(error)
        return
    seen.signature = seen.signature or signature(image)
    for rule, detail in _handled(header, header.alpha and is_blank(image)).items():
        yield name, rule, detail
    try:
        samples.preprocess.to_tensors(image, draw, metadata=whole.get("json"))
    except ImageError as error:
        yield "json", "focal-point", str(error)
        return
    except AlignedError as error:
        yield name, "aligned-tensor", str(error)
        return
    yield from _further_faults(samples, image, draw, whole)


def _handled(header: Header, blank: bool) -> dict[str, str]:
    profile = profile_use(header)
    details = {
        "exif-rotation": header.rotated and f"EXIF orientation {header.orientation}: turned upright when it is read",
        "colour-profile": profile == "converted" and "its colour profile is not sRGB",
        "unusable-profile": profile == "ignored" and "its colour profile cannot be used",
        "blank-image": blank and "one colour on data.background",
        "transparent-image": header.alpha and not blank and "transparent parts show data.background",
        "animated-image": header.animated and "only its first frame is used",
        "deep-image": header.bits > 8 and f"{header.bits} bits per channel are converted to 8",
    }
    return {rule: detail for rule, detail in details.items() if detail}


def _further_faults(samples: Samples, image: Image.Image, draw: Draw, whole: dict[str, bytes]) -> Found:
    for name, extension in samples.images.items():
        if extension not in whole:
            continue  # reported as missing or damaged
        try:
            other = samples.preprocess.decode(whole[extension], draw)
            samples.preprocess.to_tensors(image, draw, others={name: other}, metadata=whole.get("json"))
        except ImageError as error:
            yield extension, "further-image", f"{extension}: {error}"


def _caption_faults(samples: Samples, members: Members, whole: dict[str, bytes], key: str) -> Found:
    captions = samples.captions
    read = [name for name in captions.extensions if name in members]
    member = read[0] if read else ""
    for name in read:
        if members[name].intact and name not in whole:
            yield (
                name,
                "malformed-caption",
                f"a caption must have at most {MAX_CAPTION} bytes, got {members[name].span.size}",
            )
    if any(name not in whole for name in read):
        return
    for rule, detail in dict.fromkeys(captions.faults(whole, key)):
        if rule == "missing-caption" and captions.missing != "error":
            rule = "without-caption"
        yield member, rule, detail


def _every_caption(samples: Samples, sample: int, members: Members) -> list[str]:
    """Return all captions of a sample; only that of epoch 0 if there are too many to list."""
    captions = samples.captions
    data, key = small_members(members), samples.catalog.key(sample)
    try:
        return list(captions.every(data, key)) or [captions(data, key, 0, sample)]
    except CaptionError:
        return []
