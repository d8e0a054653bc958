"""The captions that a run embeds before its first step."""

from __future__ import annotations

from types import SimpleNamespace

from omegaconf import OmegaConf

from diffusion_train.training_run import RunCaptions


def test_prompts_of_the_grids_come_first_and_the_negative_one_is_among_them() -> None:
    data = SimpleNamespace(captions=lambda: iter(["a dog"]))
    cfg = OmegaConf.create({"callbacks": {"samples": {"prompts": ["a cat"], "negative_prompt": "blurred"}}})
    captions = RunCaptions(cfg, data)
    assert list(captions) == list(captions) == ["a cat", "blurred", "a dog"]
    assert list(RunCaptions(OmegaConf.create({"callbacks": {}}), data)) == ["a dog"]
