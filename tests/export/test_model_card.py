"""The card of an export in each format, of facts that are given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from diffusion_train.command.export import FORMATS
from diffusion_train.export.model_card import Facts, readme
from diffusion_train.export.proof import Proof, Question

LAYER = SimpleNamespace(r={"default": 4}, scaling={"default": 1.5})
DATA = {
    "samples": 7,
    "licenses": {"CC0-1.0": 5, "<b>`odd`|": 2},
    "sources": {"icons": 7, "photos": 1},
    "shards": [{"shard": f"/home/me/{number}.tar", "digest": "d"} for number in range(102)],
}
CONFIG = {"run_dir": "x", "data": {"folder": "/home/me/photos", "note": "```\n````"}}


def card(form: str, **others: Any) -> str:
    adapters = {"layer": LAYER} if form.startswith("lora") else {}
    model: Any = SimpleNamespace(adapters=adapters, text_encoders={}, family="sdxl", name="brand")
    plain: dict[str, Any] = {"base": "some/base@main", "base_sha256": "ab", "base_license": None, "data": {}}
    facts = Facts(**plain | {"trigger": "", "templates": [], "config": CONFIG, "approvals": ["no approval"]} | others)
    proof = Proof(1e-6, 2e-6, torch.zeros(3, 8, 8))
    ask = Question('a "red" `apple`', 0, 10, 1.5)
    return readme(model, form, facts, ask, proof, ("brand.safetensors", "brand.png"), Path("/out/brand.safetensors"))


@pytest.mark.parametrize("form", FORMATS)
def test_it_says_how_the_export_is_used(form: str) -> None:
    text = card(form)
    assert "```python\nimport diffusers\n" in text
    assert """pipeline("a 'red' 'apple'")""" in text
    assert ("lora" in yaml.safe_load(text.split("---")[1])["tags"]) == form.startswith("lora")
    assert ("rank 4 and alpha 6 of the U-Net," in text) == form.startswith("lora")
    assert ("<lora:brand:1>" in text) == (form == "lora_kohya")
    assert ("peft.PeftModel" in text) == (form == "lora_peft")
    assert ("StableDiffusionXLPipeline.from_single_file" in text) == (form == "single_file")


def test_the_hub_reads_its_head() -> None:
    free = {"samples": 5, "licenses": {"CC0-1.0": 3, "CC-BY-4.0": 2}}
    text = card("lora_peft", base_license="a: b", trigger="'zkx\" é", data=free)
    head = yaml.safe_load(text.split("---")[1])
    assert head == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusion_train", "lora"],
        "base_model": "some/base",
        "license": "a: b",
        "instance_prompt": "'zkx\" é",
    }
    assert (
        set(yaml.safe_load(card("diffusers", base="/home/me/base").split("---")[1])) & {"base_model", "license"}
        == set()
    )


def test_it_says_what_it_was_trained_on_and_not_where() -> None:
    text = card("diffusers", data=DATA)
    for told in (
        "| CC0-1.0 | 5 |",
        "7 samples",
        "Sources: icons (7), photos (1).",
        "| 99.tar | `d` |",
        "| and 2 more |",
    ):
        assert told in text, told
    for hidden in ("/home/me", "run_dir", "<b>", "100.tar"):
        assert hidden not in text, hidden
    assert text.count("\n`````yaml\n") == text.count("\n`````\n") == 1, "the fence is longer than what it holds"


def test_unknown_rights_are_told() -> None:
    text = card("diffusers")
    assert "under an **unknown** licence" in text
    assert "names no licences of the training images" in text


@pytest.mark.parametrize(
    ("licenses", "why"),
    [
        ({"CC0-1.0": 5, "unknown": 14}, "The licences of 1 kind of training images must be read first: unknown."),
        ({"proprietary": 1, "CC-BY-NC-4.0": 1}, "The licences of 2 kinds of training images must be read first: "),
        ({}, "The licences of the training images are not on record."),
    ],
)
def test_no_licence_is_claimed_for_what_others_may_own(licenses: dict[str, int], why: str) -> None:
    text = card("lora_kohya", base_license="creativeml-openrail-m", data={"samples": 19, "licenses": licenses})
    assert "license" not in yaml.safe_load(text.split("---")[1])
    assert f"**Licence of this LoRA.** None is claimed. {why}" in text
    assert "**Base model.** `some/base@main`, under creativeml-openrail-m." in text


def test_authors_are_named_where_licences_ask_for_it() -> None:
    licenses = {"CC-BY-4.0": 4, "CC0-1.0": 2, "CC BY-SA 3.0": 1}
    text = card("diffusers", data={"licenses": licenses, "authors": {"CC-BY-4.0": {"Ada *L.*": 2, "Bob": 1}}})
    assert "- CC-BY-4.0: Ada \\*L.\\*, Bob; 1 image without an author on record\n" in text
    assert "- CC BY-SA 3.0: 1 image without an author on record\n" in text
    assert "CC0-1.0:" not in text


def test_it_names_approvals_and_the_keys_that_other_tools_leave_out() -> None:
    text = card("lora_kohya", approvals=["approved for campaign <X>"], unusual_keys=["lora_unet_conv_in"])
    assert "- approved for campaign &lt;X&gt;\n" in text
    assert "draw other images: `lora_unet_conv_in`.\n" in text
    assert "kohya's sd-scripts" not in card("lora_kohya")
