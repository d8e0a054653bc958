"""The module and the Trainer of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_REMEDIES = {
    "accelerator": "give auto, or cpu",
    "devices": "give a number from 1 on, or auto",
    "max_time": "give days:hours:minutes:seconds, as 00:07:55:00",
    "strategy": "give auto, or ddp",
}


def build_module(cfg: Any) -> Any:
    """The LightningModule of a config."""
    from diffusion_train import config
    from diffusion_train.network.layout import place
    from diffusion_train.run_folder import build_conditioner, build_network
    from diffusion_train.training.module import DiffusionModule

    network = build_network(cfg)
    place(network, channels_last=cfg.channels_last, compile=cfg.compile)
    return DiffusionModule(
        network=network,
        diffusion=config.build(cfg.diffusion),
        conditioner=build_conditioner(cfg),
        autoencoder=config.build(cfg.autoencoder),
        optimization=build_optimization(cfg),
        ema=config.build(cfg.ema),
        condition_dropout=cfg.condition_dropout,
        seed=cfg.seed,
    )


def build_optimization(cfg: Any) -> Any:
    from diffusion_train import config
    from diffusion_train.training.optimizer import Optimization

    optimizer, lr_schedule = config.build(cfg.optimizer), config.build(cfg.lr_schedule)
    return Optimization(optimizer, lr_schedule, cfg.clip_norm, cfg.adapter.get("text_encoder_lr"))


def build_trainer(cfg: Any, run_dir: Path, checkpoint: Path | None) -> Any:
    from diffusion_train import config
    from diffusion_train.command.record import RunRecord
    from diffusion_train.training.checkpoint import AtomicCheckpointIO, read_facts

    record = RunRecord(cfg, checkpoint)
    given: dict[str, Any] = {
        "checkpointing": {"description": {"config": config.redact(cfg)}, "after_saving": record.write_data}
    }
    if checkpoint and "wandb" in cfg.logger and not cfg.logger.wandb.id:
        given["wandb"] = {"id": read_facts(checkpoint)["wandb_id"]}
    return lightning(
        cfg,
        callbacks=[
            record,
            *(config.build(node, **given.get(name, {})) for name, node in cfg.callbacks.items()),
        ],
        logger=[config.build(node, **given.get(name, {})) for name, node in cfg.logger.items()],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(run_dir),
    )


def lightning(cfg: Any, **arguments: Any) -> Any:
    """The Trainer of a config. Raises ValueError for settings that it cannot take on this machine."""
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from diffusion_train import config
    from diffusion_train.callbacks.scheduled import at_least

    counts = {f"trainer.{name}": cfg.trainer.get(name) for name in ("max_steps", "log_every_n_steps")}
    at_least(1, **{name: count for name, count in counts.items() if count is not None})
    try:
        return config.build(
            cfg.trainer,
            **arguments,
            max_epochs=-1,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
        raise ValueError("\n".join(_refused(cfg.trainer, str(error).partition("\n")[0]))) from error


def _refused(settings: Any, problem: str) -> list[str]:
    """Lightning's words with the setting that they are about: it names that, or its value, or it may be any."""
    values = {name: str(settings.get(name)) for name in _REMEDIES}
    by_name = [name for name in values if f"{name}=" in problem or f"`{name}`" in problem]
    by_value = [name for name, value in values.items() if f" {value} " in problem.replace("'", " ")]
    given = [name for name, value in values.items() if value not in ("auto", "None")]
    about = next((names[0] for names in (by_name, by_value, given) if names), None)
    if about is None:
        return [f"trainer: {problem}"]
    return [f"trainer.{about}={values[about]}: {problem.rstrip('!.')}; {_REMEDIES[about]}"]
