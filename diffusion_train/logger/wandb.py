"""W&B through Lightning's logger; it falls back to offline mode by itself and never stops training."""

from __future__ import annotations

import base64
import json
import os
import secrets
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth

from diffusion_train.logger.wandb_import import import_wandb
from diffusion_train.utils.redact import redact_text


class WandB(WandbLogger):
    """Logs a W&B run in `run_dir/wandb`: online if there is an API key and the server responds, otherwise offline.

    WANDB_MODE, WANDB_BASE_URL and the other settings of W&B apply. `id` is the run to continue (`version` of the logger
    that started it); without it a new run starts. `log_hyperparams` sends the config as it is, so pass one without
    secrets. W&B does not record the command line and the console, which may hold secrets. A server that does not
    respond delays the start by at most twice `timeout_s` seconds, and the end by `timeout_s`. If W&B fails in any way,
    for instance because its process dies, a warning says so and the run continues without it.
    """

    def __init__(
        self,
        run_dir: str | Path,
        project: str,
        name: str | None = None,
        id: str | None = None,
        timeout_s: float = 15.0,
    ) -> None:
        id = id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        super().__init__(name=redact_text(name) if name else None, save_dir=run_dir, project=project, id=id)
        self.timeout_s = timeout_s
        self._next_step = 0
        self._is_lost = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, which starts at the first use; once W&B failed, an object that does nothing."""
        if self._experiment is None and not self._is_lost:
            with self._surviving():
                Path(self.save_dir or ".").mkdir(parents=True, exist_ok=True)
                self._experiment = start(self._wandb_init, self.timeout_s)
                self._next_step = self._experiment.step
        return _NoRun() if self._is_lost else self._experiment

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  W&B may fail in any way
            self._experiment, self._is_lost = None, True
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
            warnings.warn(
                f"W&B: {problem}; the run continues without it, and metrics.csv has all metrics", stacklevel=1
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars with the optimizer step as W&B's step.

        A resumed run skips steps that it logged before, because they repeat exactly.
        """
        assert step is not None
        run = self.experiment
        if step >= self._next_step:
            with self._surviving():
                run.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        with self._surviving():
            super().log_hyperparams(params)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        with self._surviving():
            super().log_image(key, images, step, **kwargs)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run when Lightning ends the fit; a run with the same id may follow in this process."""
        if self._experiment is not None:
            with self._surviving():
                self._experiment.finish(exit_code=int(status != "success"))
            self._experiment = None


class _NoRun:
    """Stands for a W&B run that was lost: all its attributes can be called, and do nothing."""

    def __getattr__(self, name: str) -> _NoRun:
        return self

    def __call__(self, *args: object, **kwargs: object) -> None:
        pass


def start(init: Mapping[str, Any], timeout_s: float) -> Any:
    """Start a W&B run with the arguments `init` of `wandb.init`, online if possible."""
    import_wandb()
    import wandb

    settings = wandb.Settings(
        init_timeout=timeout_s,
        finish_timeout=timeout_s,
        reinit="create_new",
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )
    known = wandb.setup(wandb.Settings(silent=True)).settings
    if known.mode in ("offline", "dryrun", "disabled"):
        return wandb.init(**init, settings=settings)
    online, problem = judge(known, timeout_s)
    if online:
        try:
            return wandb.init(**init, mode="online", settings=settings)
        except Exception as error:  # noqa: BLE001  W&B may fail in any way, but training continues
            problem = f"{type(error).__name__}: {error}"
            wandb.teardown()  # a second init beside the failed one would wait for it
    if problem:
        warnings.warn(f"W&B: {problem}; the run is logged offline; upload it later with `wandb sync`", stacklevel=1)
    return wandb.init(**init, mode="offline", settings=settings)


def judge(settings: Any, timeout_s: float) -> tuple[bool, str | None]:
    """Return whether to log online, and the problem if there is a key that cannot be used now."""
    key = settings.api_key or netrc_key(settings.base_url)
    if not key and not settings.identity_token_file:
        return False, None
    problem = unusable(settings.base_url, key, timeout_s)
    return problem is None, problem and f"{settings.base_url} {problem}"


def netrc_key(base_url: str) -> str | None:
    """Return the key that `wandb login` stored for this server, or None."""
    older = ["https://api.wandb.ai"] if urlsplit(base_url).netloc.endswith("forge.coreweave.com") else []
    return next((found[1] for url in [base_url, *older] if (found := get_netrc_auth(url))), None)


def unusable(base_url: str, key: str | None, timeout_s: float) -> str | None:
    """Return why the server cannot be used now: no response in time, an error, or a rejected key; None if it can."""
    replies: list[str | None] = []
    probe = Thread(target=lambda: replies.append(_ask(base_url, key, timeout_s)), daemon=True)
    probe.start()
    probe.join(timeout_s)
    return replies[0] if replies else f"does not respond within {timeout_s:g} s"


def _ask(base_url: str, key: str | None, timeout_s: float) -> str | None:
    question = json.dumps({"query": "query { viewer { id } }"}).encode()
    request = Request(f"{base_url.rstrip('/')}/graphql", question, {"Content-Type": "application/json"})
    if key:  # unredirected: the key goes to this server alone
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(f"api:{key}".encode()).decode())
    try:
        with urlopen(request, timeout=timeout_s) as response:
            viewer = json.load(response)["data"]["viewer"]
    except HTTPError as error:
        return None if error.code < 500 and not key else f"returns HTTP error {error.code}"
    except OSError as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"
    except (ValueError, LookupError, TypeError):
        return "does not respond as a W&B server does"
    return "does not accept the API key" if key and not viewer else None
