"""Compute a run's latents and text embeddings once, as shards that training reads with data.encoded=<folder>.

The name of each entry is a hash of everything that determines it. Existing entries are kept, and only those that are
missing or have changed are computed. Run the same command again to resume a stopped one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffusion_train import config
from diffusion_train.assembly import build_conditioner
from diffusion_train.command.next_commands import after_encode
from diffusion_train.config.resolve_data import resolve_data
from diffusion_train.config.training_config import SETTINGS
from diffusion_train.data.storage.base import StorageError
from diffusion_train.encode.caption_embeddings import encode_captions
from diffusion_train.encode.image_latents import encode_images, shard_dataset
from diffusion_train.encode.precomputed_data import check_encodable
from diffusion_train.encode.rank import Ranks
from diffusion_train.page import plain
from diffusion_train.training.precision import resolve
from diffusion_train.training_run import RunCaptions, check_image_shapes
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import remove_strays
from diffusion_train.utils.lock import locked
from diffusion_train.utils.process.launcher import first_process
from diffusion_train.utils.quiet import quiet_libraries
from diffusion_train.utils.redact import redact_text

SUMMARY = "compute a run's latents and text embeddings once"
EXAMPLE = """\
diffusion-train encode experiment=sd15_lora pretrained=<model> "data.shards='brand-{00..03}.tar'" out=encoded
python train.py experiment=sd15_lora pretrained=<model> "data.shards='brand-{00..03}.tar'" data.encoded=encoded"""

KINDS = ("encoded", "there", "bad")
OWN = ("latents-", "text-")  # how the names of its shards begin


def run(cfg: DictConfig) -> int:
    """Encode the data of a training config into `cfg.out`; return the exit code.

    Raises ValueError for wrong settings.
    """
    quiet_libraries()
    cfg.trainer.precision = resolve(str(cfg.trainer.precision), cfg.trainer.accelerator)
    config.check(cfg, read=(*SETTINGS, "out", "encode_batch_size"))
    check_settings(cfg)
    resolve_data(cfg)
    config.resolve_files(cfg)
    out, first = Path(cfg.out), first_process(cfg.trainer.get("num_nodes", 1))
    with locked(out / ".lock", f"out={out}") if first else nullcontext():
        if first:
            remove_strays(out)
        return encode(cfg, out)


def check_settings(cfg: DictConfig) -> None:
    """Raises ConfigError with every mistake in the command's own settings."""
    mistakes = []
    if "encoded" not in cfg.data:
        mistakes.append(config.Mistake("data", "has no images in shards to encode", "choose data=shards"))
    elif cfg.data.encoded is not None:
        mistakes.append(
            config.Mistake("data.encoded", "is only for training", f"leave it out; encode adds to out={cfg.out}")
        )
    if "://" in str(cfg.out):
        problem = "must be a local folder"
        mistakes.append(
            config.Mistake(
                f"out={cfg.out}", problem, "give a local folder, and copy its files to this address afterwards"
            )
        )
    elif others := sorted(path.name for path in Path(cfg.out).glob("*.tar") if not path.name.startswith(OWN)):
        problem = f"contains other shards ({others[0]})"
        mistakes.append(config.Mistake(f"out={cfg.out}", problem, "give a separate folder"))
    config.raise_all([*mistakes, *config.too_small(cfg, encode_batch_size=1)])


def encode(cfg: DictConfig, out: Path) -> int:
    """Encode this process's slice of the data into `out`, wait for the other processes and return the exit code.

    The first process prints the summary. Raises ValueError if there is nothing to encode.
    """
    torch.set_float32_matmul_precision("high")
    settings = config.build(cfg.data)
    data = settings.datamodule()
    autoencoder, conditioner = config.build(cfg.autoencoder), build_conditioner(cfg)
    check_image_shapes(settings, 1, autoencoder.latent_shape)
    check_encodable(shard_dataset(data))
    if autoencoder.fingerprint is None and not conditioner.texts():
        raise ValueError("nothing to encode: the autoencoder is the identity, and the conditioner has no text encoder")
    ranks = Ranks(**{name: cfg.trainer[name] for name in ("accelerator", "devices", "num_nodes")})
    sizes = (cfg.encode_batch_size, cfg.data.num_workers)
    code, done = Exit.DONE, {"images": Counter[str](), "captions": Counter[str]()}
    try:
        done["images"] = encode_images(data, autoencoder, out, ranks.mine, *sizes)
        done["captions"] = encode_captions(RunCaptions(cfg, data), conditioner, out, ranks.mine)
    except KeyboardInterrupt:
        code = stopped("stopped", Exit.STOPPED)
    except StorageError as error:
        code = stopped(str(error).strip().splitlines()[-1], Exit.STORAGE)  # a worker process sends its whole traceback
    except OSError as error:
        code = stopped(f"{error.filename or out}: {error.strerror or error}", Exit.STORAGE)
    except ValueError as error:
        code = stopped(str(error), Exit.WRONG)
    # every process reaches this line, because the work of all of them is kept; only the first one prints the result
    code = Exit(ranks.reduce(code, "max"))
    counts = {name: {kind: ranks.reduce(count[kind]) for kind in KINDS} for name, count in done.items()}
    if ranks.mine.number > 0:
        return Exit.DONE
    if code == Exit.DONE:
        print(summary(counts, out), end="", flush=True)
    return code


def stopped(reason: str, code: Exit) -> Exit:
    print(f"\n{redact_text(reason)}\nfinished work is kept; run the same command again to resume", file=sys.stderr)
    return code


def summary(counts: Mapping[str, Mapping[str, int]], out: Path) -> str:
    shards = sorted(out.glob("*.tar"))
    num_bytes = sum(shard.stat().st_size for shard in shards)
    return plain(
        "diffusion_train.encode",
        "encoded.txt",
        counts=counts,
        out=out,
        then=after_encode(out),
        shards=shards,
        num_bytes=num_bytes,
    )
