"""Compute a run's latents and text embeddings once, in shards that training takes with data.encoded=<folder>.

Each has the hash of all that decides it for a name: what is there already is kept, what is another now is made anew, and a
command that was stopped goes on when it is given again.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from diffusion_train.command import train
from diffusion_train.command.messages import quiet
from diffusion_train.utils.launcher import first_process

SUMMARY = "compute a run's latents and text embeddings once"
EXAMPLE = """\
diffusion-train encode experiment=sd15_lora pretrained=<model> "data.shards='brand-{00..03}.tar'" out=encoded
python train.py experiment=sd15_lora pretrained=<model> "data.shards='brand-{00..03}.tar'" data.encoded=encoded"""

KINDS = ("encoded", "there", "bad")
OWN = ("latents-", "text-")  # how the names of its shards begin
READ = (*train.READ, "out", "encode_batch_size")


def run(cfg: Any) -> int:
    quiet()
    from diffusion_train import config
    from diffusion_train.config.resolve_data import resolve_data
    from diffusion_train.training.precision import resolve
    from diffusion_train.utils.files import remove_strays
    from diffusion_train.utils.lock import locked

    cfg.trainer.precision = resolve(str(cfg.trainer.precision), cfg.trainer.accelerator)
    config.check(cfg, read=READ, given=train.GIVEN)
    refuse(cfg)
    resolve_data(cfg)
    config.resolve_files(cfg)
    out, first = Path(cfg.out), first_process()
    with locked(out / ".lock", f"out={out}") if first else nullcontext():
        if first:
            remove_strays(out)
        return encode(cfg, out)


def refuse(cfg: Any) -> None:
    """Raises ConfigError with what is wrong with the command's own settings."""
    from diffusion_train import config

    mistakes = []
    if "encoded" not in cfg.data:
        mistakes.append(config.Mistake("data", "has no images in shards that could be encoded", "choose data=shards"))
    elif cfg.data.encoded is not None:
        mistakes.append(config.Mistake("data.encoded", "is for training", f"leave it out: out={cfg.out} is added to"))
    if "://" in str(cfg.out):
        mistakes.append(
            config.Mistake(f"out={cfg.out}", "is no folder of this machine", "copy its files there afterwards")
        )
    elif others := sorted(path.name for path in Path(cfg.out).glob("*.tar") if not path.name.startswith(OWN)):
        mistakes.append(
            config.Mistake(f"out={cfg.out}", f"holds other shards ({others[0]})", "give a folder of its own")
        )
    if cfg.encode_batch_size < 1:
        mistakes.append(config.Mistake(f"encode_batch_size={cfg.encode_batch_size}", "at least 1"))
    if mistakes:
        raise config.ConfigError(mistakes)


def encode(cfg: Any, out: Path) -> int:
    import torch

    from diffusion_train import config
    from diffusion_train.command.exit import Exit
    from diffusion_train.command.shapes import check_shapes
    from diffusion_train.data.storage.base import StorageError
    from diffusion_train.encode.encoding import Share, refuse_uncached
    from diffusion_train.run_folder import build_conditioner

    torch.set_float32_matmul_precision("high")
    datamodule = config.build(cfg.data.module)
    autoencoder, conditioner = config.build(cfg.autoencoder), build_conditioner(cfg)
    check_shapes(cfg, 1, autoencoder.latent_shape)
    refuse_uncached(datamodule.dataset)
    if autoencoder.fingerprint is None and not conditioner.texts():
        raise ValueError("there is nothing to encode: the autoencoder is the identity, and no caption is embedded")
    fabric = launched(**{name: cfg.trainer[name] for name in ("accelerator", "devices", "num_nodes")})
    share = Share(fabric.global_rank, fabric.world_size, fabric.device)
    code, done = Exit.DONE, {"images": Counter[str](), "captions": Counter[str]()}
    try:
        done["images"] = images(cfg, out, share, datamodule, autoencoder)
        done["captions"] = captions(cfg, out, share, datamodule, conditioner)
    except KeyboardInterrupt:
        code = stopped("stopped", Exit.STOPPED)
    except StorageError as error:
        code = stopped(str(error).strip().splitlines()[-1], Exit.STORAGE)  # a worker process sends its whole traceback
    except OSError as error:
        code = stopped(f"{error.filename or out}: {error.strerror or error}", Exit.STORAGE)
    except ValueError as error:
        code = stopped(str(error), Exit.WRONG)
    # every process comes here, for what they have all done is kept; the first one alone says how it ended
    code = Exit(total(fabric, code, "max"))
    counts = {name: {kind: total(fabric, count[kind]) for kind in KINDS} for name, count in done.items()}
    if share.rank > 0:
        return Exit.DONE
    if code == Exit.DONE:
        print("\n".join(told(counts, out)), flush=True)
    return code


def launched(**where: Any) -> Any:
    """All processes, of which one that has done its share waits for the others as long as it takes."""
    from datetime import timedelta

    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    fabric = Fabric(**where)
    if isinstance(fabric.strategy, DDPStrategy):
        fabric = Fabric(**where, strategy=DDPStrategy(timeout=timedelta(weeks=4)))
    fabric.launch()
    return fabric


def stopped(reason: str, code: Any) -> Any:
    from diffusion_train.utils.redact import redact_text

    print(f"\n{redact_text(reason)}\nwhat is done is kept; the same command goes on from there", file=sys.stderr)
    return code


def total(fabric: Any, number: int, reduce_op: str = "sum") -> int:
    """Over all processes, which also waits for the last of them."""
    return int(fabric.all_reduce(number, reduce_op=reduce_op))


def images(cfg: Any, out: Path, share: Any, datamodule: Any, autoencoder: Any) -> Counter[str]:
    from diffusion_train.data.precomputed.encoded import EncodedImages
    from diffusion_train.data.precomputed.entries import Entries, EntryWriter
    from diffusion_train.encode.encoding import encode_images, missing_views

    done = Counter[str]()
    if autoencoder.fingerprint is None:
        return done
    dataset, encoded = datamodule.dataset, EncodedImages(Entries(out), autoencoder.fingerprint)
    wanted = [(shape, share.of(samples)) for shape, samples in datamodule.shapes()]
    missing = list(missing_views(dataset, encoded, wanted))
    done["there"] = sum(len(samples) for _, samples in wanted) * (2 if dataset.reader.view.transform.flip else 1)
    done["there"] -= (num_missing := sum(len(view.samples) for view in missing))
    with EntryWriter(out, "latents") as writer, progress("Encoding images", "image", share, num_missing) as bar:
        for view in missing:
            how = (share.device, cfg.encode_batch_size, cfg.data.num_workers)
            done += encode_images(dataset, encoded, view, autoencoder, writer, *how, bar)
    return done


def captions(cfg: Any, out: Path, share: Any, datamodule: Any, conditioner: Any) -> Counter[str]:
    from diffusion_train.data.precomputed.encoded import EncodedTexts
    from diffusion_train.data.precomputed.entries import Entries, EntryWriter
    from diffusion_train.encode.encoding import encode_captions

    done = Counter[str]()
    for text in conditioner.texts():
        encoded = EncodedTexts(Entries(out), text.encoder.fingerprint)
        every = itertools.chain([""], train.Captions(cfg, datamodule))
        with EntryWriter(out, "text") as writer, progress("Embedding captions", "caption", share) as bar:
            done += encode_captions(every, text, encoded, writer, share, bar)
    return done


def progress(what: str, unit: str, share: Any, total: int | None = None) -> Any:
    """Told by the first process, of its own share."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, mininterval=0.5, disable=None if share.rank == 0 else True)


def told(counts: Mapping[str, Mapping[str, int]], out: Path) -> list[str]:
    lines = []
    for name, count in counts.items():
        if any(count.values()):
            lines.append(f"{name:<9}{count['encoded']:>9,} encoded, {count['there']:,} were there")
        if count["bad"]:
            lines.append(f"{'':<9}{count['bad']:>9,} cannot be decoded; others are trained on in their place")
    shards = sorted(out.glob("*.tar"))
    size = sum(shard.stat().st_size for shard in shards)
    lines.append(f"{out}: {len(shards):,} shards of {size / 1e6:,.1f} MB; train with them by data.encoded={out}")
    return lines


def use(cfg: Any, datamodule: Any, module: Any) -> None:
    """Training takes what is in data.encoded. Raises ValueError where latents are missing."""
    from diffusion_train.data.precomputed.encoded import EncodedImages, EncodedTexts
    from diffusion_train.data.precomputed.entries import Entries
    from diffusion_train.data.shard.problem import DataError
    from diffusion_train.data.storage.base import StorageError
    from diffusion_train.encode.encoding import refuse_missing, refuse_uncached

    where, dataset = cfg.data.encoded, datamodule.dataset
    try:
        entries = Entries(where if isinstance(where, str | os.PathLike) else list(where), dataset.storage)
    except DataError as error:
        found = "; ".join(map(str, error.problems)) or str(error)
        raise ValueError(f"data.encoded={where}: {found}; give what `diffusion-train encode` wrote") from error
    for text in module.conditioner.texts():
        text.made_before = EncodedTexts(entries, text.encoder.fingerprint)
    if module.autoencoder.fingerprint is None:
        return
    refuse_uncached(dataset)
    encoded = EncodedImages(entries, module.autoencoder.fingerprint)
    try:
        refuse_missing(dataset, encoded, datamodule.shapes(), str(where))
    except StorageError as error:
        raise ValueError(f"data.encoded={where}: cannot be compared with data.shards: {error}") from error
    datamodule.trained_on = datamodule.dataset.with_latents(encoded)
