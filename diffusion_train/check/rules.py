"""Every rule of `check`: how serious a violation is, and what to do about it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Literal, NamedTuple

from diffusion_train.data.shard.problem import Problem

Severity = Literal["error", "warning", "note"]


class Rule(NamedTuple):
    """A rule. An "error" stops training or makes a bad sample; a "note" needs no action."""

    severity: Severity
    remedy: str


RULES = {
    # shards
    "torn-shard": Rule("error", "The file is truncated: copy or write it again."),
    "damaged-header": Rule(
        "error", "Bytes were changed: copy or write the file again; intact samples after the damage are used."
    ),
    "trailing-data": Rule("error", "Tars were joined, or bytes follow the end of the archive: write a single archive."),
    "empty-shard": Rule("error", "Leave the file out, or write it again."),
    "compressed-shard": Rule("error", "Decompress it: samples are read by their position in the file."),
    "not-a-tar": Rule("error", "Something else was stored under this name, often an error page: download it again."),
    "changed-shard": Rule("error", "Something still writes to the shard: check again when it is complete."),
    "checksum": Rule("error", "Bytes were changed after the shard was indexed: copy or write the shard again."),
    "duplicate-member": Rule(
        "error", "The sample is left out because two of its members have the same name: rename one of them."
    ),
    "duplicate-key": Rule("warning", "Both samples are used: make sure that no shard was added twice."),
    "unsorted-members": Rule(
        "warning", "This package reads them; other readers need the members of a sample next to each other."
    ),
    "ignored-members": Rule("note", "Links, folders and hidden files are not samples."),
    # images
    "missing-image": Rule("error", "Add the image, or leave the sample out."),
    "several-images": Rule(
        "error",
        "Keep one; further images of a sample need a longer extension, such as edge.png, and an entry in data.images.",
    ),
    "unused-image": Rule(
        "warning",
        "Rename it: by WebDataset's rule the key ends at the first dot; or read it with data.images, or convert it.",
    ),
    "undecodable-image": Rule("error", "Replace the image, or leave the sample out."),
    "huge-image": Rule("error", "Shrink it, for instance with prepare.max_side."),
    "further-image": Rule(
        "error", "Add or replace the member that data.images names: it must show the same view as the image."
    ),
    "focal-point": Rule(
        "error", 'Write "focal": [x, y] into the json, two numbers in [0, 1], from the left and from the top.'
    ),
    "aligned-tensor": Rule(
        "error",
        "Correct the class that data.aligned names, or leave the sample out: training would end at this sample.",
    ),
    "tiny-image": Rule("warning", "It is enlarged; data.min_side leaves such images out."),
    "extreme-aspect": Rule(
        "warning",
        "Much of it is cropped off; raise data.buckets.max_ratio to keep more, or set data.max_aspect to leave it out.",
    ),
    "below-min-side": Rule("warning", "It is left out because of data.min_side."),
    "above-max-aspect": Rule("warning", "It is left out because of data.max_aspect."),
    "exif-rotation": Rule("note", "It is turned upright when it is read."),
    "colour-profile": Rule("note", "Its colours are converted to sRGB when it is read."),
    "unusable-profile": Rule(
        "warning", "It is broken or of another colour space than the image, and ignored: save the image as sRGB."
    ),
    "transparent-image": Rule("note", "Transparent parts show data.background."),
    "blank-image": Rule(
        "warning",
        "Training sees an empty image: "
        "set data.background to contrast if the image is white on transparency, else to another colour.",
    ),
    "animated-image": Rule("note", "Only the first frame is used; data.animated=refuse makes it a bad sample."),
    "deep-image": Rule("note", "It is converted to 8 bits per channel."),
    # captions
    "missing-caption": Rule(
        "error", "Add the caption; data.captions.missing=empty trains without one, drop leaves the sample out."
    ),
    "without-caption": Rule(
        "warning", "It is trained with an empty caption or left out, depending on data.captions.missing: add a caption."
    ),
    "blank-caption": Rule(
        "warning",
        "It is trained with an empty caption, or is a bad sample if data.captions.missing=drop: write a caption.",
    ),
    "caption-not-utf8": Rule(
        "warning",
        "It has U+FFFD in place of bytes that are not UTF-8: store it as UTF-8, or prepare it with source.encoding.",
    ),
    "malformed-caption": Rule("error", "Store the caption as text, or as text in JSON, of at most 1 MiB."),
    "long-caption": Rule(
        "warning",
        "The text encoder cuts it off: shorten it. CLIP takes 77 tokens; "
        "packaged_text and t5 take more with conditioner.encoder.max_length.",
    ),
    # json and rights
    "malformed-json": Rule("warning", "The json is not used, so the licence is unknown: write the json again."),
    "unknown-license": Rule("warning", 'Write "license" into the json; data.allowed_licenses leaves such samples out.'),
    "unread-license": Rule(
        "warning",
        "The text is not the name of a known licence: "
        "read it, and write an SPDX name, proprietary, own work or LicenseRef-<your name>.",
    ),
    "expired-license": Rule(
        "warning", "Renew the licence and write its new last day, or leave the sample out; prepare leaves it out."
    ),
    "missing-release": Rule(
        "warning", "Write the release of the people into model_release, or people=no; prepare leaves the sample out."
    ),
    "license-not-allowed": Rule("warning", "It is left out because of data.allowed_licenses."),
    "share-alike-license": Rule(
        "note",
        "Works made from it may have to be shared under the same licence; "
        "restrict data.allowed_licenses if that is a problem.",
    ),
    "non-commercial-license": Rule(
        "note", "Commercial use is not allowed; restrict data.allowed_licenses if that is a problem."
    ),
    "no-derivatives-license": Rule(
        "note", "Changed versions may not be passed on; restrict data.allowed_licenses if that is a problem."
    ),
    "stock-license": Rule(
        "warning", "Most stock licences forbid training: read the contract, or restrict data.allowed_licenses."
    ),
    "proprietary-license": Rule(
        "note", "The owner decides: make sure that you are the owner or have the owner's agreement."
    ),
    "use-restricted-license": Rule("note", "The licence lists forbidden uses: read them."),
    # the whole
    "near-duplicate": Rule("warning", "Training sees it more often than other images: keep one of the copies."),
    "leakage": Rule("warning", "A near-duplicate of this held-out image is trained on: leave one of the two out."),
    "thin-bucket": Rule("warning", "Lower data.batch_size or data.buckets.max_ratio, or raise data.buckets.divisor."),
}
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def in_order(problems: Iterable[Problem], ignored: Container[str] = ()) -> list[Problem]:
    """Return the problems, the worst first, without duplicates, `ignored` rules and consequences of another problem."""
    found: dict[object, Problem] = {}
    for one in problems:
        if one.rule not in ignored:
            found.setdefault((one.rule, one.shard, one.key, one.key or (one.offset, one.detail)), one)
    unread = {(one.shard, one.key) for one in found.values() if one.rule == "malformed-json"}
    reported = [one for one in found.values() if one.rule != "unknown-license" or (one.shard, one.key) not in unread]
    return sorted(reported, key=lambda one: _rank(one.rule))


def by_rule(problems: Iterable[Problem]) -> dict[str, Sequence[Problem]]:
    """Return rule -> problems, the most serious rule first, then the most frequent."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.rule, []).append(problem)
    return dict(sorted(found.items(), key=lambda item: (_rank(item[0]), -len(item[1]))))


def _rank(rule: str) -> int:
    return SEVERITIES.index(RULES[rule].severity)
