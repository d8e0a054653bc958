"""What the U-Net and the transformer both promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffusion_train.network.layout import set_memory_format

Build = Callable[..., nn.Module]
Cond = dict[str, Tensor]


def test_predicts_zero_at_the_start(build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond) -> None:
    assert not build(start=True, **sizes)(x, t, **cond).any()


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (16, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_output_is_like_x(build: Build, size: tuple[int, int], dtype: torch.dtype, t: Tensor) -> None:
    x = torch.randn(3, 3, *size, dtype=dtype)
    out = build().to(dtype)(x, t)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert out.isfinite().all()
    assert out.std() > 0


@pytest.mark.parametrize("name", ["x", "text", "pooled", "concat"])
def test_double_precision_is_kept_all_the_way(
    build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond, name: str
) -> None:
    """Differences over 1e-5 give the slope to 1e-6 of it; one float32 on the way would leave an error near 1e-2."""
    network = build(**sizes).double()
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in ({"x": x} | cond).items()}
    direction = torch.randn_like(inputs[name])

    def value(step: float | Tensor) -> Tensor:
        return network(t=t, **(inputs | {name: inputs[name] + step * direction})).square().sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(step), step)
    torch.testing.assert_close((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-6, atol=0)


def test_runs_under_autocast(build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond) -> None:
    network = build(**sizes)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, t, **cond)
    torch.testing.assert_close(out.float(), network(x, t, **cond), rtol=0.1, atol=0.1)


def test_neighbouring_times_differ_in_bfloat16(build: Build, x: Tensor) -> None:
    """bfloat16 rounds 900 and 901 to one number, so the sinusoids must be taken before the rounding."""
    network = build().bfloat16()
    one, two = (network.conditions.time(torch.full((1,), time)) for time in (900.0, 901.0))
    assert (one - two).any()


@pytest.mark.parametrize("name", ["text", "pooled", "label", "concat", "t"])
def test_each_input_matters(build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond, name: str) -> None:
    network = build(**sizes)
    changed = {"t": t} | cond
    changed[name] = (changed[name] + 1) % 4 if name == "label" else changed[name].flip(1 if name == "concat" else 0)
    before, after = network(x, t, **cond), network(x, **changed)
    assert (before - after).abs().amax((1, 2, 3))[0] > 1e-4


def test_masked_text_does_not_matter(build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond) -> None:
    network = build(**sizes)
    noisy = cond["text"] + 10 * torch.randn_like(cond["text"]) * ~cond["text_mask"][..., None]
    torch.testing.assert_close(network(x, t, **cond), network(x, t, **(cond | {"text": noisy})), rtol=0, atol=1e-6)


def test_no_mask_is_a_mask_of_ones(build: Build, x: Tensor, t: Tensor, cond: Cond) -> None:
    network = build(text_dim=12)
    plain = network(x, t, text=cond["text"])
    ones = torch.ones_like(cond["text_mask"])
    torch.testing.assert_close(plain, network(x, t, text=cond["text"], text_mask=ones), rtol=0, atol=1e-5)


def test_rows_are_independent(build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond) -> None:
    network = build(**sizes)
    alone = [network(x[i : i + 1], t[i : i + 1], **{k: v[i : i + 1] for k, v in cond.items()}) for i in range(3)]
    torch.testing.assert_close(network(x, t, **cond), torch.cat(alone), rtol=0, atol=1e-5)


def test_every_parameter_learns(build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond) -> None:
    network = build(**sizes)
    network(x, t, **cond).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_changes_no_gradient(
    build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond
) -> None:
    def gradients(checkpointing: bool) -> tuple[dict[str, Tensor | None], int]:
        network = build(gradient_checkpointing=checkpointing, **sizes)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.numel()) or v, lambda v: v):
            loss = network(x, t, **cond).square().mean()
        loss.backward()
        return {n: p.grad for n, p in network.named_parameters()}, sum(kept)

    (plain, kept), (again, kept_less) = gradients(False), gradients(True)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert kept_less < 0.25 * kept


@pytest.mark.parametrize("name", ["text", "pooled", "label", "concat"])
def test_a_condition_asked_for_and_absent_is_refused_by_name(
    build: Build, sizes: dict[str, int], x: Tensor, t: Tensor, cond: Cond, name: str
) -> None:
    del cond[name]
    with pytest.raises(ValueError, match=f"without `{name}`"):
        build(**sizes)(x, t, **cond)


def test_a_condition_not_asked_for_is_ignored(build: Build, x: Tensor, t: Tensor, cond: Cond) -> None:
    network = build()
    torch.testing.assert_close(network(x, t, **cond), network(x, t), rtol=0, atol=0)


def test_unknown_condition_is_a_type_error_naming_it(build: Build, x: Tensor, t: Tensor) -> None:
    with pytest.raises(TypeError, match="txet"):
        build()(x, t, txet=x)


def test_wrong_concat_is_refused(build: Build, x: Tensor, t: Tensor) -> None:
    with pytest.raises(ValueError, match=r"concat_channels=2 channels, got 3"):
        build(concat_channels=2)(x, t, concat=x)


def test_sizes_it_cannot_divide_are_refused(build: Build, t: Tensor) -> None:
    with pytest.raises(ValueError, match="height 7 and width 8"):
        build()(torch.randn(3, 3, 7, 8), t)


def test_channels_last_changes_the_layout_alone(build: Build, x: Tensor, t: Tensor) -> None:
    plain, placed = build(), build()
    set_memory_format(placed, channels_last=True, compile=False)
    assert list(placed.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(placed(x, t), plain(x, t), rtol=0, atol=1e-5)


def test_patch_size_four(build: Build, x: Tensor, t: Tensor) -> None:
    assert build(patch_size=4)(x[..., :8], t).shape == (3, 3, 8, 8)
