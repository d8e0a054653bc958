"""Conditioners without a model: none, label, precomputed, low_res, joint; and dropping conditions."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from diffusion_train.conditioner.base import drop
from diffusion_train.conditioner.joint import Joint
from diffusion_train.conditioner.label import Label
from diffusion_train.conditioner.low_res import LowRes
from diffusion_train.conditioner.none import NoCondition
from diffusion_train.conditioner.precomputed import Precomputed

TEXT = {"text": [3, 4], "text_mask": [3]}


def text_batch(n):
    return {"text": torch.randn(n, 3, 4), "text_mask": torch.ones(n, 3, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("conditioner", "batch"),
    [
        pytest.param(NoCondition(), {"x": torch.zeros(2, 3)}, id="none"),
        pytest.param(Label(5), {"label": torch.tensor([0, 4])}, id="label"),
        pytest.param(Precomputed(TEXT), text_batch(2), id="precomputed"),
        pytest.param(LowRes(8), {"low_res": torch.rand(2, 3, 4, 4)}, id="low_res"),
        pytest.param(
            Joint({"a": Label(5), "b": LowRes(8)}),
            {"label": torch.tensor([0, 1]), "low_res": torch.rand(2, 3, 4, 4)},
            id="joint",
        ),
    ],
)
def test_absence_has_the_names_shapes_and_types_of_presence(conditioner, batch):
    cond, null = conditioner(batch), conditioner.null(2)
    assert {k: (v.shape, v.dtype) for k, v in cond.items()} == {k: (v.shape, v.dtype) for k, v in null.items()}
    assert not conditioner.state_dict()
    assert all(v.dtype != torch.float32 for v in conditioner.double()(batch).values())


def test_drop_takes_whole_rows_of_every_condition():
    cond = {
        "text": torch.ones(3, 2, 2),
        "label": torch.tensor([1, 2, 3]),
        "text_mask": torch.ones(3, 2, dtype=torch.bool),
    }
    null = {
        "text": torch.zeros(3, 2, 2),
        "label": torch.full((3,), 9),
        "text_mask": torch.zeros(3, 2, dtype=torch.bool),
    }
    dropped = drop(cond, null, torch.tensor([True, False, True]))
    assert dropped["text"][:, 0, 0].tolist() == [1, 0, 1]
    assert dropped["label"].tolist() == [1, 9, 3]
    assert dropped["text_mask"][:, 1].tolist() == [True, False, True]


def test_labels_come_from_the_batch_or_from_captions():
    assert Label(5)({"label": torch.tensor([3]), "caption": ["cat"]})["label"].tolist() == [3]
    assert Label(5)({"caption": ["4", "", " 0 "]})["label"].tolist() == [4, 5, 0]
    assert Label(2, ["cat", "dog"])({"caption": ["dog", "cat"]})["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Label(2, ["cat"]), "num_classes=2 names, got 1", id="names"),
        pytest.param(
            lambda: Label(2, ["cat", "dog"])({"caption": ["cow"]}),
            "'cow' is not a class; classes are cat, dog",
            id="word",
        ),
        pytest.param(lambda: Label(2)({"label": torch.tensor([3])}), r"labels must be in 0 ... 2, got", id="number"),
        pytest.param(lambda: Precomputed(TEXT)({"x": 0, "caption": 1}), "'text', got only caption, x", id="missing"),
        pytest.param(lambda: Precomputed({"text": [3, 5]})(text_batch(2)), r"shape \(3, 4\)", id="shape"),
        pytest.param(
            lambda: LowRes(8)({"low_res": torch.rand(1, 1, 4, 4)}), "channels=3 channels, got 1", id="channels"
        ),
        pytest.param(
            lambda: Joint({"a": Label(5), "b": Label(6)})({"caption": ["1"]}),
            "parts.b must not return label: another part returns it",
            id="clash",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_precomputed_conditions_pass_and_their_absence_is_read_from_a_file(tmp_path):
    nothing = {"text": torch.randn(3, 4), "text_mask": torch.tensor([1, 1, 0], dtype=torch.bool)}
    save_file(nothing, tmp_path / "null.safetensors")
    conditioner, batch = Precomputed(TEXT, str(tmp_path / "null.safetensors")), text_batch(2)
    assert all(torch.equal(value, batch[name]) for name, value in conditioner(batch).items())
    assert all(torch.equal(value[1], nothing[name]) for name, value in conditioner.null(2).items())


def test_precomputed_absence_without_a_file_leaves_attention_one_place():
    null = Precomputed(TEXT).null(2)
    assert null["text"].abs().max() == 0
    assert null["text_mask"].tolist() == [[True, False, False]] * 2


def test_a_low_resolution_picture_is_enlarged():
    ramp = torch.linspace(-0.8, 0.8, 8).expand(1, 3, 8, 8)
    large = LowRes(16)({"low_res": ramp})["concat"]
    assert large.shape == (1, 3, 16, 16)
    assert torch.allclose(large[..., 4:-4].diff(dim=-1), torch.tensor(0.8 / 7), atol=0.01)
    assert torch.equal(LowRes(8)({"low_res": ramp})["concat"], ramp)
