from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "config.yaml": """
        defaults: [_self_, network: mlp, sampler: ddim, optional extra: null]
        name: run
        seed: 0
        rate: 0.5
        fast: false
        run_dir: runs/${name}/${now:%H-%M-%S}
        shards: a.tar
        trainer: {max_steps: 10, log_every_n_steps: 5}
    """,
    "sample.yaml": """
        run: ???
        prompts: []
        num_samples: 1
        seed: 0
        out: samples
    """,
    "network/mlp.yaml": "_target_: diffusion_train.network.mlp.MLP\nwidth: 8\ndepth: 2\n",
    "network/unet.yaml": "_target_: diffusion_train.network.unet.UNet\nchannels: 8\n",
    "sampler/ddim.yaml": """
        defaults: [grid: uniform, _self_]
        _target_: diffusion_train.sampler.ddim.DDIM
        num_steps: 50
        eta: 0.0
    """,
    "sampler/heun.yaml": """
        defaults: [grid: uniform, _self_]
        _target_: diffusion_train.sampler.heun.Heun
        num_steps: 18
    """,
    "sampler/grid/uniform.yaml": "_target_: diffusion_train.sampler.grid.Uniform\n",
    "sampler/grid/karras.yaml": "_target_: diffusion_train.sampler.grid.Karras\nrho: 7.0\n",
    "extra/long.yaml": "# @package _global_\ntrainer: {max_steps: 1000}\n",
}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        lines = text.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(line[indent:] for line in lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def write():
    return write_files


@pytest.fixture(scope="session")
def files() -> dict[str, str]:
    return FILES


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write_files(tmp_path / "conf", FILES)


@pytest.fixture(autouse=True)
def _trusts_nothing():
    """Targets allowed by one test must not be allowed in the next."""
    from diffusion_train.config.targets import allow

    yield
    allow(())
