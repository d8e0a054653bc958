"""Compute a run's latents and text embeddings once, in shards that training takes with data.encoded=<folder>.

Each has the hash of all that decides it for a name: what is there already is kept, what is another now is made anew, and a
command that was stopped goes on when it is given again.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from diffusion_train.command import train
from diffusion_train.command.messages import quiet

SUMMARY = "compute a run's latents and text embeddings once"
EXAMPLE = """\
diffusion-train encode experiment=sd15_lora pretrained=<model> "data.shards='brand-{00..03}.tar'" out=encoded
python train.py experiment=sd15_lora pretrained=<model> "data.shards='brand-{00..03}.tar'" data.encoded=encoded"""

READ = (*train.READ, "out", "encode_batch_size")


def run(cfg: Any) -> int:
    quiet()
    from diffusion_train import config
    from diffusion_train.command.exit import Exit
    from diffusion_train.data.storage.base import StorageError
    from diffusion_train.training.precision import resolve
    from diffusion_train.utils.cache import remove_strays
    from diffusion_train.utils.lock import locked

    cfg.trainer.precision = resolve(str(cfg.trainer.precision), cfg.trainer.accelerator)
    config.check(cfg, read=READ, given=train.GIVEN)
    refuse(cfg)
    out, first = Path(cfg.out), train.first_process()
    with locked(out / ".lock", f"out={out}") if first else nullcontext():
        if first:
            remove_strays(out)
        try:
            return encode(cfg, out)
        except KeyboardInterrupt:
            reason, code = "stopped", Exit.STOPPED
        except StorageError as error:
            reason, code = str(error), Exit.STORAGE
        except OSError as error:
            reason, code = f"{error.filename or out}: {error.strerror or error}", Exit.STORAGE
    print(f"\n{config.redact_text(reason)}\nwhat is done is kept; the same command goes on from there", file=sys.stderr)
    return code


def refuse(cfg: Any) -> None:
    """Raises ConfigError with what is wrong with the command's own settings."""
    from diffusion_train import config

    mistakes = []
    if "encoded" not in cfg.data:
        mistakes.append(config.Mistake("data", "has no images in shards that could be encoded"))
    elif cfg.data.encoded is not None:
        mistakes.append(config.Mistake("data.encoded", "is for training", f"leave it out: out={cfg.out} is added to"))
    if cfg.encode_batch_size < 1:
        mistakes.append(config.Mistake(f"encode_batch_size={cfg.encode_batch_size}", "at least 1"))
    if mistakes:
        raise config.ConfigError(mistakes)


def encode(cfg: Any, out: Path) -> int:
    import torch
    from lightning_fabric import Fabric

    from diffusion_train import config
    from diffusion_train.command.exit import Exit
    from diffusion_train.command.shapes import check_shapes
    from diffusion_train.data.encoding import Share, refuse_uncached

    torch.set_float32_matmul_precision("high")
    datamodule = config.build(cfg.data.module)
    autoencoder, conditioner = config.build(cfg.autoencoder), config.build(cfg.conditioner)
    check_shapes(cfg, 1, autoencoder.latent_shape)
    refuse_uncached(datamodule.dataset)
    if autoencoder.fingerprint is None and not conditioner.texts():
        raise ValueError("there is nothing to encode: the autoencoder is the identity, and no caption is embedded")
    places = {name: cfg.trainer[name] for name in ("accelerator", "devices", "num_nodes")}
    fabric = Fabric(**places)
    fabric.launch()
    share = Share(fabric.global_rank, fabric.world_size, fabric.device)
    lines = [
        *images(cfg, out, share, datamodule, autoencoder),
        *texts(cfg, out, share, datamodule, conditioner),
    ]
    fabric.barrier()
    if share.rank == 0:
        print("\n".join([*lines, *summary(out)]), flush=True)
    return Exit.DONE


def images(cfg: Any, out: Path, share: Any, datamodule: Any, autoencoder: Any) -> list[str]:
    """-> what to say of it."""
    from tqdm import tqdm

    from diffusion_train.data.encoded import EncodedImages
    from diffusion_train.data.encoding import encode_images, views
    from diffusion_train.data.entries import Entries, EntryWriter

    if autoencoder.fingerprint is None:
        return ["images are trained on as they are: the autoencoder is the identity"]
    encoded = EncodedImages(Entries(out), autoencoder.fingerprint)
    missing = list(views(datamodule.dataset, encoded, datamodule.shapes()))
    mine = [view._replace(samples=share.of(view.samples)) for view in missing]
    total = sum(len(view.samples) for view in mine)
    with (
        EntryWriter(out, "latents") as writer,
        tqdm(total=total, desc="Encoding images", unit="image", disable=None if share.rank == 0 else True) as bar,
    ):
        for view in mine:
            if len(view.samples):
                how = (share.device, cfg.encode_batch_size, cfg.data.num_workers)
                encode_images(datamodule.dataset, encoded, view, autoencoder, writer, *how, bar)
    wanted = sum(len(samples) for _, samples in datamodule.shapes()) * (
        2 if datamodule.dataset.view.transform.flip else 1
    )
    made = sum(len(view.samples) for view in missing)
    return [f"images: {wanted - made:,} of {wanted:,} views were there, {made:,} were encoded"]


def texts(cfg: Any, out: Path, share: Any, datamodule: Any, conditioner: Any) -> list[str]:
    """-> what to say of it."""
    from tqdm import tqdm

    from diffusion_train.data.encoded import EncodedTexts
    from diffusion_train.data.encoding import encode_captions
    from diffusion_train.data.entries import Entries, EntryWriter

    lines = []
    for text in conditioner.texts():
        encoded = EncodedTexts(Entries(out), text.encoder.fingerprint)
        captions = ["", *train.Captions(cfg, datamodule)]
        with (
            EntryWriter(out, "text") as writer,
            tqdm(desc="Embedding captions", unit="caption", disable=None if share.rank == 0 else True) as bar,
        ):
            count = encode_captions(captions, text, encoded, writer, share, bar)
        lines.append(f"captions: {count:,} different ones")
    return lines


def summary(out: Path) -> list[str]:
    shards = sorted(out.glob("*.tar"))
    size = sum(shard.stat().st_size for shard in shards)
    return [f"{out}: {len(shards):,} shards, {size / 1e6:,.1f} MB", f"train with them: data.encoded={out}"]


def use(cfg: Any, datamodule: Any, module: Any) -> None:
    """Training takes what is in data.encoded. Raises ValueError where latents are missing."""
    from diffusion_train.data.encoded import EncodedImages, EncodedTexts
    from diffusion_train.data.encoding import refuse_missing, refuse_uncached
    from diffusion_train.data.entries import Entries

    where = cfg.data.encoded
    entries = Entries(where if isinstance(where, str | os.PathLike) else list(where), datamodule.dataset.storage)
    for text in module.conditioner.texts():
        text.made_before = EncodedTexts(entries, text.encoder.fingerprint)
    if module.autoencoder.fingerprint is None:
        return
    refuse_uncached(datamodule.dataset)
    encoded = EncodedImages(entries, module.autoencoder.fingerprint)
    refuse_missing(datamodule.dataset, encoded, datamodule.shapes(), str(where))
    datamodule.trained_on = datamodule.dataset.with_latents(encoded)
