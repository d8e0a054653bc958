"""Every rule that `check` knows: how bad it is to break it, and what to do about it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Literal, NamedTuple

from diffusion_train.data.shard.problem import Problem

Severity = Literal["error", "warning", "note"]


class Rule(NamedTuple):
    """An "error" stops training or makes a bad sample, a "note" tells of what is handled."""

    severity: Severity
    remedy: str


RULES = {
    # shards
    "torn-shard": Rule("error", "The file ends too early: copy or write it again."),
    "damaged-header": Rule("error", "Bytes were changed: copy or write it again; what follows the damage is used if whole."),
    "trailing-data": Rule("error", "Tars were joined, or bytes follow the end: write one archive with one end."),
    "empty-shard": Rule("error", "Leave the file out, or write it again."),
    "compressed-shard": Rule("error", "Decompress it: samples are read by their place in the file."),
    "not-a-tar": Rule("error", "Something else was stored under this name, often a page that tells an error: fetch it again."),
    "changed-shard": Rule("error", "Something still writes to the shard: check again once it is done."),
    "checksum": Rule("error", "Bytes were changed after the shard was indexed: copy or write it again."),
    "duplicate-member": Rule("error", "Which of them belongs to the sample nobody knows, so it is left out: give each member a name of its own."),
    "duplicate-key": Rule("warning", "Both are used: make sure that no shard was added twice."),
    "unsorted-members": Rule("warning", "Ours are found all the same; other readers need the members of a sample side by side."),
    "ignored-members": Rule("note", "Links, folders and hidden files are no samples."),
    # images
    "missing-image": Rule("error", "Add the image, or leave the sample out."),
    "several-images": Rule("error", "Keep one; further images of a sample have endings as in edge.png and are named by data.images."),
    "undecodable-image": Rule("error", "Replace the image, or leave the sample out."),
    "huge-image": Rule("error", "Shrink it: prepare.max_side does that."),
    "further-image": Rule("error", "Add or replace the member that data.images names: it must show the same view as the image."),
    "focal-point": Rule("error", 'Write "focal": [x, y] into the json, two shares from the left and from the top.'),
    "aligned-tensor": Rule("error", "Mend the class that data.aligned names, or leave the sample out: training would end here."),
    "tiny-image": Rule("warning", "It is enlarged: data.min_side leaves such images out."),
    "extreme-aspect": Rule("warning", "Much of it is cropped off: data.buckets.max_ratio keeps more, data.max_aspect leaves it out."),
    "below-min-side": Rule("warning", "It is left out, as data.min_side asks."),
    "above-max-aspect": Rule("warning", "It is left out, as data.max_aspect asks."),
    "exif-rotation": Rule("note", "It is turned upright when it is read."),
    "transparent-image": Rule("note", "data.background shows through."),
    "animated-image": Rule("note", "The first frame is used; data.animated=refuse makes it a bad sample."),
    "deep-image": Rule("note", "It is scaled to 8 bits a channel."),
    # captions
    "missing-caption": Rule("error", "Add the caption; data.captions.missing=empty trains without, drop leaves the sample out."),
    "without-caption": Rule("warning", "Trained on the empty caption or left out, as data.captions.missing says: add a caption."),
    "blank-caption": Rule("warning", "Trained on the empty caption, or a bad sample with data.captions.missing=drop: write one."),
    "caption-not-utf8": Rule("warning", "Bytes that are not UTF-8 become U+FFFD: store the caption as UTF-8."),
    "malformed-caption": Rule("error", "Store a caption that is text, or JSON with text in it, of at most 1 MiB."),
    "long-caption": Rule("warning", "The text encoder cuts it off: shorten it, or raise conditioner.encoder.max_length."),
    # json and rights
    "malformed-json": Rule("warning", "Nothing in it is used, nor its licence known: write it again."),
    "unknown-license": Rule("warning", 'Write "license" into the json; data.allowed_licenses leaves such samples out.'),
    "unread-license": Rule("warning", "The text is no SPDX name: read it, and write the name that it means."),
    "license-not-allowed": Rule("warning", "Left out, as data.allowed_licenses asks."),
    "share-alike-license": Rule("note", "What is made from it may have to be shared alike; data.allowed_licenses decides."),
    "non-commercial-license": Rule("note", "It is not for commercial use; data.allowed_licenses decides."),
    "no-derivatives-license": Rule("note", "Nothing may be made from it; data.allowed_licenses decides."),
    # the whole
    "near-duplicate": Rule("warning", "It is trained on more often than others: keep one of them."),
    "leakage": Rule("warning", "What is held out is trained on: leave one of the two out."),
    "thin-bucket": Rule("warning", "Lower data.batch_size or data.buckets.max_ratio, or raise data.buckets.divisor."),
}  # fmt: skip
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def in_order(problems: Iterable[Problem], ignored: Container[str] = ()) -> list[Problem]:
    """The worst first. What the index reports of a sample is not reported again by reading it, nor what follows from it."""
    found: dict[object, Problem] = {}
    for one in problems:
        if one.rule not in ignored:
            found.setdefault((one.rule, one.shard, one.key, one.key or (one.offset, one.detail)), one)
    unread = {(one.shard, one.key) for one in found.values() if one.rule == "malformed-json"}
    reported = [one for one in found.values() if one.rule != "unknown-license" or (one.shard, one.key) not in unread]
    return sorted(reported, key=lambda one: _rank(one.rule))


def by_rule(problems: Iterable[Problem]) -> dict[str, Sequence[Problem]]:
    """The worst first, then the most frequent."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.rule, []).append(problem)
    return dict(sorted(found.items(), key=lambda item: (_rank(item[0]), -len(item[1]))))


def _rank(rule: str) -> int:
    return SEVERITIES.index(RULES[rule].severity)
