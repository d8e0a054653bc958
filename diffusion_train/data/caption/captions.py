"""The caption of a sample in an epoch: source -> one of its captions -> tags -> template.

Dropping the whole caption, which guidance needs, is done by `condition_dropout` in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar, get_args

from diffusion_train.data.caption.fault import BlankCaption, CaptionError, Fault, MissingCaption
from diffusion_train.data.caption.metadata import Path
from diffusion_train.data.caption.source import JsonField, Members, Source
from diffusion_train.data.caption.tags import Tags
from diffusion_train.data.caption.template import CAPTION, Template
from diffusion_train.utils.rng import key_seed

T = TypeVar("T")
Choose = Literal["draw", "first", "join"]
Missing = Literal["error", "empty", "drop"]
MAX_LISTED = 1000  # captions that `every` lists for one sample
NO_TAGS = Tags()


class Captions:
    """Captions as a pure function of a sample's members, its number, the epoch and the seed.

    `choose`: of several captions, draw one each epoch, use the first, or join all with the separator of `tags`. One of
    `templates` is drawn each epoch. If a sample lacks a text that a template names, `missing` "error" and "drop" raise
    CaptionError (the data set handles the difference), and "empty" gives the empty caption. A blank caption raises
    CaptionError for "drop" and is empty otherwise. Raises ValueError for impossible settings.
    """

    def __init__(
        self,
        source: Source,
        seed: int = 0,
        choose: Choose = "draw",
        templates: Sequence[str] = ("{caption}",),
        trigger: str = "",
        tags: Tags = NO_TAGS,
        missing: Missing = "error",
    ) -> None:
        for name, value, known in (("choose", choose, get_args(Choose)), ("missing", missing, get_args(Missing))):
            if value not in known:
                raise ValueError(f"data.captions.{name}={value}: must be one of {', '.join(known)}")
        self.source, self.seed, self.choose, self.tags, self.missing = source, seed, choose, tags, missing
        self.templates = _read(templates, trigger)
        is_bare = [template.parts for template in self.templates] == [[CAPTION]]
        self.is_plain = is_bare and not (tags.shuffle or tags.dropout)  # the caption is one of the captions, unchanged
        paths = dict.fromkeys(path for template in self.templates for path in template.paths)
        self.sources = {path: source if path == CAPTION else JsonField(".".join(path)) for path in paths}
        read = dict.fromkeys(name for named in self.sources.values() for name in named.extensions)
        self.extensions: tuple[str, ...] = tuple(read)
        self.check: Callable[[str], object] | None = None  # raises ValueError for a caption that the model cannot use
        self._settings = (
            f"choose={choose}, templates={list(templates)}, trigger={trigger!r}, "
            f"tags=({tags.settings}), missing={missing}"
        )

    @property
    def settings(self) -> str:
        """The settings that determine the captions, besides seed and data."""
        return f"source=({self.source.settings}), {self._settings}"

    def has(self, key: str) -> bool:
        """Return False if the sample has no caption even though it has all members of `extensions`."""
        return CAPTION not in self.sources or self.source.has(key)

    def keys(self) -> Sequence[str] | None:
        """Return the keys of samples with captions if a table lists them, else None."""
        return self.source.keys() if CAPTION in self.sources else None

    def __call__(self, members: Members, key: str, epoch: int, sample: int) -> str:
        """Return the caption of a sample in an epoch. Raises CaptionError."""
        caption = self._compose(members, key, epoch, sample)
        if self.check:
            try:
                self.check(caption)
            except ValueError as error:
                raise CaptionError(str(error)) from None
        return caption

    def _compose(self, members: Members, key: str, epoch: int, sample: int) -> str:
        drawn = (self.seed, epoch, sample)
        if self.is_plain:
            found = self.source.texts(members, key)
            if len(found) == 1 and (text := found[0].strip()):
                return text  # the usual case, without a draw
            texts = self._choices(self.source, found)
            return _pick(texts, "caption", drawn) if texts else ""
        values = {}
        for path, texts in self._texts_by_field(members, key).items():
            if not texts:
                return ""
            text = _pick(texts, "caption", drawn)
            values[path] = self.tags(text, *drawn) if path == CAPTION else text
        return _pick(self.templates, "template", drawn).render(values)

    def every(self, members: Members, key: str) -> Iterator[str]:
        """Yield each possible caption; none if tags are drawn or there are more than MAX_LISTED.

        Raises CaptionError.
        """
        texts_by_field = self._texts_by_field(members, key)
        if not all(texts_by_field.values()):
            yield ""
            return
        captions = texts_by_field.pop(CAPTION, [""])
        if len(captions) * len(self.templates) > MAX_LISTED or not all(map(self.tags.is_fixed, captions)):
            return
        fields = {path: texts[0] for path, texts in texts_by_field.items()}
        every = (template.render({CAPTION: text, **fields}) for template in self.templates for text in captions)
        yield from dict.fromkeys(every)

    def said(self, members: Members, key: str) -> Iterator[str]:
        """Yield every text that the sample's captions can contain: templates, captions and fields.

        Raises CaptionError.
        """
        yield from (template.words for template in self.templates)
        for source in self.sources.values():
            yield from source.texts(members, key)

    def faults(self, members: Members, key: str) -> list[Fault]:
        """Return the faults of the sample's captions, also of those that `missing` allows."""
        return [fault for source in self.sources.values() for fault in _faults(source, members, key)]

    def _texts_by_field(self, members: Members, key: str) -> dict[Path, list[str]]:
        """Return the choices for every field that any template names; a field without choices gives the empty caption.

        Every epoch needs the fields of all templates, so that a sample is not faulty in one epoch and used in the next.
        """
        return {path: self._choices(source, source.texts(members, key)) for path, source in self.sources.items()}

    def _choices(self, source: Source, captions: list[str]) -> list[str]:
        texts = _not_blank(captions)
        if not captions and self.missing != "empty":
            raise MissingCaption(f"no {source.name}")
        if source is not self.source:
            return [", ".join(texts)] if captions else []
        if captions and not texts and self.missing == "drop":
            raise BlankCaption(f"{source.name} is blank")
        if self.choose == "join":
            return [self.tags.join(texts)] if texts else []
        return texts[:1] if self.choose == "first" else texts


def _read(templates: Sequence[str], trigger: str) -> list[Template]:
    read = [Template(text, trigger) for text in templates]
    if not read:
        raise ValueError("data.captions.templates must not be empty; the default is ['{caption}']")
    if trigger and not any(template.names_trigger for template in read):
        raise ValueError(
            f"data.captions.trigger={trigger}: no template contains it; give for instance "
            "data.captions.templates=['{trigger}, {caption}']"
        )
    return read


def _faults(source: Source, members: Members, key: str) -> Iterator[Fault]:
    try:
        found = source.texts(members, key)
    except CaptionError as error:
        yield Fault(error.rule, str(error))
        return
    if not found:
        yield Fault(MissingCaption.rule, f"no {source.name}")
    elif not _not_blank(found):
        yield Fault(BlankCaption.rule, f"{source.name} is blank")
    if any("\ufffd" in text for text in found):
        yield Fault("caption-not-utf8", f"{source.name} has U+FFFD in place of bytes that are not UTF-8")


def _not_blank(texts: list[str]) -> list[str]:
    return [stripped for text in texts if (stripped := text.strip())]


def _pick(choices: Sequence[T], purpose: str, drawn: tuple[int, int, int]) -> T:
    return choices[key_seed(purpose, *drawn) % len(choices)] if len(choices) > 1 else choices[0]
