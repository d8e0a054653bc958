"""The config of a finished or running run, and overrides of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion_train.config.checks.signatures import setting_mistakes
from diffusion_train.config.checks.values import is_addable, is_unknown, keys, set_value, unusable
from diffusion_train.config.command_line.arguments import parse
from diffusion_train.config.folders import groups, options_with
from diffusion_train.config.mistakes import (
    ERRORS,
    Mistake,
    did_you_mean,
    first_lines,
    listed,
    no_option,
    raise_all,
    unknown_key,
)
from diffusion_train.config.sampler_choice import sampler_for_run, with_model_grid
from diffusion_train.config.secrets import escape
from diffusion_train.config.targets import forbidden
from diffusion_train.training.weights_header import read_description

MAX_BYTES = 1 << 20
MAX_DEPTH = 100


def from_container(container: object) -> DictConfig:
    """Return a config read from a file. `${...}` in it stays text, and each target must be one of those of its key.

    Raises ValueError if it is not a mapping, and ConfigError for targets that are not allowed.
    """
    if not isinstance(container, dict):
        raise ValueError(f"a config must be a mapping, got {type(container).__name__}")  # noqa: TRY004
    container = _without_unread(container)
    raise_all(forbidden(container))
    cfg: DictConfig = OmegaConf.create(escape(container))
    return cfg


def _without_unread(container: dict[str, Any]) -> dict[str, Any]:
    """Leave out `data.module` of early runs, whose `data` had no class: nothing reads it."""
    data = container.get("data")
    if not isinstance(data, dict) or "_target_" in data:
        return container
    return {**container, "data": {key: value for key, value in data.items() if key != "module"}}


def load_run_config(run: Path) -> DictConfig:
    """Return the config of a run folder, or of the weights.safetensors of one.

    It is read from the header of the weights, or from config.yaml if there are no weights yet. Raises ValueError if
    there is no config or the weights have a newer format, and ConfigError for targets that are not allowed.
    """
    run = Path(run)
    weights, file = run / "weights.safetensors", run / "config.yaml" if run.is_dir() else run
    file = weights if weights.is_file() else file
    if not file.is_file():
        raise ValueError(f"run={run}: {file} does not exist; give a run folder or its weights.safetensors")
    if not run.is_dir() and file.suffix != ".safetensors":
        folder = file.absolute().parents[file.absolute().parent.name == "checkpoints"]
        raise ValueError(
            f"run={run}: is neither a run folder nor its weights.safetensors; give the folder: run={folder}"
        )
    container = read_description(file)["config"] if file.suffix == ".safetensors" else _yaml(file)
    return from_container(container)


def compose_run(
    run: Path,
    arguments: Sequence[str],
    folders: Sequence[Path],
    words: Iterable[str] = (),
    read: Collection[str] | None = None,
) -> DictConfig:
    """Return a run's config with overrides: a group's option replaces a part of the run, a key sets its value.

    `words` are further keys to suggest for a mistyped one. `read` are the keys of the run that the command reads, by
    default all; no others can be set. Raises ConfigError with every mistake.
    """
    cfg = load_run_config(run)
    overrides, mistakes = parse(arguments)
    unread = [o for o in overrides if read is not None and not _is_read(o, read)]
    suggested = [*words, *(read or ())]
    mistakes += [
        Mistake(str(o.input_line), "nothing reads this key", did_you_mean(o.key_or_group, suggested) or "leave it out")
        for o in unread
    ]
    overrides = [o for o in overrides if o not in unread]
    known = groups(folders)
    choices = [o for o in overrides if o.key_or_group in known]
    wrong = [m for o in choices for m in _choice_mistakes(o, known)]
    mistakes += wrong
    if not wrong:
        try:
            _exchange_parts(cfg, choices, folders)
        except ERRORS as error:
            mistakes.append(Mistake(listed([str(o.input_line) for o in choices]), first_lines(error)))
    names = [*keys(cfg), *known, *words]
    for override in overrides:
        if override not in choices:
            mistakes += _set(cfg, override, names, known, folders)
    raise_all([*mistakes, *unusable(cfg)])
    return cfg


def _is_read(override: Override, read: Collection[str]) -> bool:
    key = override.key_or_group.replace("/", ".")
    return any(key == name or key.startswith(f"{name}.") for name in read)


def _choice_mistakes(override: Override, known: dict[str, list[str]]) -> list[Mistake]:
    line, group, value = str(override.input_line), override.key_or_group, override.value()
    if override.type != OverrideType.CHANGE or override.package:
        return [
            Mistake(
                line,
                "with run=, a group can be changed to another option, but not added or deleted",
                f"write {group}=<option>",
            )
        ]
    return [] if value in known[group] else [no_option(line, group, value, known[group])]


def _exchange_parts(cfg: DictConfig, choices: Sequence[Override], folders: Sequence[Path]) -> None:
    chosen = {o.key_or_group for o in choices}
    outer = [group for group in chosen if not any(group.startswith(f"{other}/") for other in chosen)]
    search = [f"file://{Path(folder).resolve()}" for folder in folders[1:]]
    lines = [f"hydra.searchpath={search}"] if search else []
    lines += [f"+{o.input_line}" if o.key_or_group in outer else str(o.input_line) for o in choices]
    with initialize_config_dir(str(Path(folders[0]).resolve()), version_base="1.3"):
        parts = compose(None, lines)
    for group in outer:
        path = group.replace("/", ".")
        part = OmegaConf.select(parts, path)
        if part is None or OmegaConf.select(cfg, path) is None:
            raise HydraException(f"group {group!r} is not a part of this run")
        plain: Any = OmegaConf.to_container(part, resolve=False)
        if path in ("sampler", "sampler.grid"):
            own: Any = OmegaConf.to_container(cfg.sampler, resolve=False)
            plain = _for_run(path, plain, own, "sampler/grid" in chosen)
        OmegaConf.update(cfg, path, plain, merge=False)


def _for_run(path: str, option: Any, own: Any, grid_chosen: bool) -> Any:
    """Return the node of an option of `sampler` or `sampler/grid` for a run whose sampler is `own`."""
    if path == "sampler.grid":
        return with_model_grid(option, own.get("grid"))
    sampler = sampler_for_run(option, own, grid_chosen)
    return sampler | {"grid": with_model_grid(sampler["grid"], own.get("grid"))} if "grid" in sampler else sampler


def _set(
    cfg: DictConfig, override: Override, names: Sequence[str], known: dict[str, list[str]], folders: Sequence[Path]
) -> list[Mistake]:
    line, key = str(override.input_line), override.key_or_group
    if override.is_delete() or override.is_sweep_override():
        return [Mistake(line, "deletions and sweeps are not possible for a run", f"write {key}=<value>")]
    if override.type == OverrideType.CHANGE and is_unknown(key, cfg):
        remedy = unknown_key(line, key, names, options_with(key, folders), is_addable(key, cfg))
        return [Mistake(line, f"the run has no key {key!r}", remedy)]
    is_new = is_unknown(key, cfg)
    return set_value(cfg, override, known) or (setting_mistakes(cfg, key) if is_new else [])


def _yaml(file: Path) -> object:
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file}: a config must have at most {MAX_BYTES} bytes, got {file.stat().st_size}")
    text = file.read_text("utf-8", errors="replace")
    if _depth(text) > MAX_DEPTH:
        raise ValueError(f"{file}: a config must be nested at most {MAX_DEPTH} levels deep")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as YAML: {error}") from error


def _depth(text: str) -> int:
    """Return how deeply brackets are nested. The parser's time grows with the square of it, so it is counted first."""
    return max(accumulate((c in "[{") - (c in "]}") for c in text), default=0)


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A YAML loader without aliases, which can expand to more data than fits in memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)
