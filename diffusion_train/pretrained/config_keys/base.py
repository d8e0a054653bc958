"""The keys of a foreign config: those that are used, those that change nothing here, and those that are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    """Why a key is refused and what to do; with a value in `off`, the key changes nothing."""

    problem: str
    remedy: str
    off: tuple[Any, ...] = (None, False)


@dataclass(frozen=True)
class Keys:
    """All keys of the config of a class. `harmless` gives the reason why a key changes nothing here."""

    used: frozenset[str]
    harmless: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        return self.used | self.harmless.keys() | self.refused.keys()

    def problems(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with each key of `config`, with its value and a remedy."""
        for key, value in config.items():
            if refusal := self.refused.get(key):
                if not any(value == off for off in refusal.off):
                    yield f"{key}={value}: {refusal.problem}; {refusal.remedy}"
            elif value is not None and key not in self.names:
                yield (
                    f"{key}={value}: unknown key, so the model may need something that is missing here; remove the key "
                    "if the model does not need it, or set it to null"
                )


def words(keys: str) -> frozenset[str]:
    """Return the names in `keys`, which blanks separate."""
    return frozenset(keys.split())


def group(reason: str, keys: str) -> dict[str, str]:
    """Return the names in `keys`, which blanks separate, each with the same reason."""
    return dict.fromkeys(keys.split(), reason)


NOT_ORDINARY = "it cannot be trained like other models, so give the model that it was distilled from"
# Of any config that the library saves.
SAVED = group("says which program wrote the file, and from where", "_diffusers_version _name_or_path _commit_hash")
SAVED |= group("says which keys have the default of their class", "_use_default_values")
CODE = {
    "auto_map": Refusal("the model needs code in its folder, which is never run", "give a model of the library itself"),
    "quantization_config": Refusal("the weights are quantized", "give the model in float16 or float32"),
}


def refuse(problems: Iterator[str], where: str) -> None:
    """Raise ValueError that names `where` and lists all `problems`, if there are any."""
    if found := list(problems):
        raise ValueError(f"{where}: " + "\n    ".join(found))
