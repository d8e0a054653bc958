"""Make shards from a collection of images and captions, with an index, a dataset card and the known licences.

Run the same command again to resume a preparation that was stopped or killed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion_train import config
from diffusion_train.assembly import build_token_counter
from diffusion_train.config.folders import own_settings
from diffusion_train.prepare.dataset_card import make_card, readme, summary
from diffusion_train.prepare.ledger import FOLDER, Ledger, refuse_other_things
from diffusion_train.prepare.next_step import next_commands
from diffusion_train.prepare.preparation import LEFT_OUT, Preparation
from diffusion_train.prepare.source.base import Source
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.rights.license import mistyped
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.lock import locked
from diffusion_train.utils.process.workers import WorkerDied

SUMMARY = "make shards from a folder, a table, a download or a packaged collection"
EXAMPLE = """\
diffusion-train prepare source=folder path=photos out=shards
diffusion-train prepare source=csv path=photos/list.csv out=shards prepare.max_side=1024 \
"allowed_licenses=[CC0-1.0,CC-BY]"
diffusion-train prepare source=openmoji out=emoji source.size=128 conditioner=packaged_text"""

READ = ("path", "out", "allowed_licenses")
# Settings that do not change the shards, so that they may differ when a stopped command resumes.
FREE = ("prepare.num_workers", "prepare.max_bad_share")


def run(cfg: DictConfig) -> int:
    """Prepare the shards, or resume; return the exit code.

    Raises ValueError if `out` is in use or has other settings.
    """
    config.check(cfg, read=READ)
    source, preparation = parts(cfg)
    out = Path(cfg.out)
    with locked(out / FOLDER / "lock", f"out={out}"):
        settings = deciding(cfg, getattr(source, "packages", ()))
        ledger = Ledger(out, settings)
        was_finished = bool(ledger.finished)
        try:
            preparation.write(source, ledger)
            card = json.loads((out / "card.json").read_text("utf-8")) if was_finished else finish(cfg, settings, ledger)
        except KeyboardInterrupt:
            return stopped(ledger, "stopped", Exit.STOPPED)
        except WorkerDied as error:
            return stopped(ledger, f"{error}; lower prepare.num_workers to use less memory", Exit.STOPPED)
        except OSError as error:
            return stopped(ledger, f"{error.filename or out}: {error.strerror or error}", Exit.STORAGE)
    report(card, out, was_finished)
    if isinstance(source, Folder) and (repeats := source.repeats()):
        print(repeats)
    return Exit.DONE


def parts(cfg: DictConfig) -> tuple[Source, Preparation]:
    """Build the source and the preparation. Raises ConfigError with the mistakes of both."""
    mistakes, built = [], []
    if cfg.path is not None and "path" not in cfg.source:
        mistakes.append(
            config.Mistake(f"path={cfg.path}", "this source is a package and reads no path", "leave it out")
        )
    try:
        refuse_other_things(Path(cfg.out))
    except ValueError as error:
        mistakes.append(config.Mistake("out", str(error)))
    for node in (cfg.source, cfg.prepare.preparation):
        try:
            built.append(config.build(node))
        except ValueError as error:
            where = f"source={source_name(cfg)}" if node is cfg.source else "prepare"
            mistakes.append(config.Mistake(where, "\n    ".join(str(error).splitlines())))
    config.raise_all(mistakes)
    return built[0], built[1]


def source_name(cfg: DictConfig) -> str:
    return str(cfg.source["_target_"]).rsplit(".", 1)[-1].lower()


def deciding(cfg: DictConfig, packages: Sequence[str]) -> dict[str, Any]:
    """Return the settings, by dotted key, and the versions of packages that determine what the shards contain."""
    plain = config.redact(cfg)
    settings = config.settings(plain["source"], "source") | config.settings(plain["prepare"], "prepare")
    settings["allowed_licenses"] = plain["allowed_licenses"]
    hidden = ("_target_", ".preparation.", ".ignore")
    settings = {
        key: value for key, value in settings.items() if key not in FREE and not any(part in key for part in hidden)
    }
    if cfg.path is not None:
        settings["source.path"] = str(Path(cfg.path).resolve())
    return {"source": source_name(cfg), **settings, **{f"version of {name}": version(name) for name in packages}}


def finish(cfg: DictConfig, settings: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Write README.md and card.json, and mark the preparation as finished; return the card."""
    if "source.path" in settings:
        settings = settings | {"source.path": Path(settings["source.path"]).name}
    card = make_card({"settings": settings}, ledger.parts, ledger.details(), build_token_counter(cfg))
    with atomic_file(ledger.out / "README.md") as file:
        file.write(readme(card, title=ledger.out.resolve().name).encode())
    with atomic_file(ledger.out / "card.json") as file:
        file.write(json.dumps(card, indent=1, ensure_ascii=False).encode())
    ledger.finish()
    return card


def stopped(ledger: Ledger, reason: str, code: int) -> int:
    count = sum(done.num_samples for done in ledger.parts)
    print(
        f"\n{reason}\n{count:,} samples are in complete shards; run the same command again to resume", file=sys.stderr
    )
    return code


def report(card: dict[str, Any], out: Path, was_finished: bool) -> None:
    """Print what was written, what was left out, and the commands to run next."""
    allowed = card["settings"]["allowed_licenses"] or ()
    blank = card["images"]["blank_on_white"]
    lines = [
        f"{out} was already complete" if was_finished else f"prepared {out}",
        *summary(card).splitlines(),
        *(f"  {'warning':<11}allowed_licenses: {line}" for line in mistyped(allowed, card["rights"]["licenses"])),
        *[f"  {'warning':<11}blank on white: {blank:,}, transparent; data.background=contrast shows them"]
        * (blank > 0),
        f"  {'details':<11}{out / 'README.md'}, card.json" + f", {LEFT_OUT}" * bool(card["left_out"]),
        *next_commands(card, out, own_settings("experiment/brand")["data"]["holdout"]),
    ]
    print("\n".join(lines))
