"""How training ends: with a code that stands for all processes, and with a word where it ends early."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from diffusion_train.command.exit import DISK, Exit
from diffusion_train.command.resuming import way_on
from diffusion_train.utils.redact import redact_text


def fit(cfg: Any, trainer: Any, module: Any, datamodule: Any, checkpoint: Path | None) -> Exit:
    """Trains, and tells why that ended early where it did."""
    from diffusion_train.callbacks.bad_samples import TooManyBadSamples
    from diffusion_train.callbacks.checkpointing import NotSaved
    from diffusion_train.callbacks.scalars import NumericalError
    from diffusion_train.data.storage.base import StorageError
    from diffusion_train.data.synchronized_loader import StoppedTogether
    from diffusion_train.training.checkpoint import read_facts

    first_step = read_facts(checkpoint)["step"] if checkpoint else 0
    going_on = partial(way_on, Path(cfg.run_dir), cfg.resume)
    try:
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except NumericalError as error:
        print(error, file=sys.stderr)
        return shared(trainer, Exit.NUMERICAL)
    except (StorageError, TooManyBadSamples) as error:
        together = isinstance(error, (NotSaved, StoppedTogether, TooManyBadSamples))
        if trainer.is_global_zero or not together:
            reason = str(error).strip().splitlines()[-1]  # a worker process sends its whole traceback
            what = "" if isinstance(error, NotSaved) else "data: "
            print(f"{what}{redact_text(reason)}\n{going_on()}", file=sys.stderr)
        return shared(trainer, Exit.STORAGE) if together else Exit.STORAGE
    except OSError as error:
        if error.errno in DISK:
            error.filename = error.filename or cfg.run_dir
        error.add_note(going_on())
        raise
    except SystemExit as error:  # Lightning's answer to KeyboardInterrupt
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if not trainer.is_global_zero:
            return Exit.DONE  # as `shared`
        error.__context__.add_note(going_on())
        raise error.__context__ from None
    except ValueError as error:
        if trainer.global_step <= first_step:
            raise  # told as a mistake in the settings, without a traceback
        raise RuntimeError(f"training ended at step {trainer.global_step}: {error}") from error
    return shared(trainer, Exit.DONE if is_done(trainer) and not asked_to_stop(trainer) else Exit.STOPPED)


def is_done(trainer: Any) -> bool:
    return bool(trainer.global_step >= trainer.max_steps)


def asked_to_stop(trainer: Any) -> bool:
    """By a signal, at whatever moment."""
    from diffusion_train.callbacks.stop import GracefulStop

    return any(callback.asked for callback in trainer.callbacks if isinstance(callback, GracefulStop))


def shared(trainer: Any, code: Exit) -> Exit:
    """The exit code of a process where all end together: the first one answers for all.

    Lightning, torchrun and srun take it down, whatever it is still writing, once another has ended with anything but 0.
    """
    return code if trainer.is_global_zero else Exit.DONE
