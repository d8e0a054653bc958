"""What acts at few steps is found in a config, and its time is spread over the steps."""

from __future__ import annotations

from pathlib import Path

from omegaconf import open_dict

from diffusion_train.bench.occasional import by_step, leave_out, occasional, silence
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import first_pass


def test_callbacks_of_few_steps(tmp_path: Path) -> None:
    cfg = first_pass(read_call("train", ("experiment=openmoji", f"run_dir={tmp_path}")))
    assert occasional(cfg) == {"checkpointing": 1000, "validation": 1000, "samples": 500, "quality": 0}
    seconds = {cfg.callbacks[name]["_target_"]: 3.0 for name in occasional(cfg)}
    assert by_step(cfg, seconds) == [("checkpointing", 3.0, 1000), ("validation", 3.0, 1000), ("samples", 3.0, 500)]
    silence(cfg)
    assert cfg.callbacks.checkpointing.every_n_steps > 10**8
    assert dict(cfg.callbacks.samples.every).items() >= {"num_steps": 0, "first": 0, "at_end": False}.items()
    with open_dict(cfg):
        leave_out(cfg)
    assert not occasional(cfg)
    assert "scalars" in cfg.callbacks
