from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_train.metric.near_duplicates import SIGNATURE
from diffusion_train.report import measure
from diffusion_train.report.material import Seen


def seen(features: Tensor, hashes: list[int] | None = None, seed: int = 0) -> Seen:
    """Images of random colours with these features; their hashes are random and far apart unless given."""
    generator = np.random.default_rng(seed)
    signatures = np.zeros(len(features), SIGNATURE)
    signatures["hash"] = hashes or generator.integers(0, 2**63, len(features), dtype=np.uint64)
    signatures["colours"] = generator.integers(0, 256, (len(features), 4, 4, 3))
    small = torch.from_numpy(generator.integers(0, 256, (len(features), 3, 4, 4), dtype=np.uint8))
    return Seen(small, features.float(), signatures)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_held_out_images_alone_calibrate_where_they_suffice() -> None:
    found = measure.calibrate(seen(normal(30, 8)), seen(normal(59, 8, seed=1), seed=1), false_alarm=0.05)
    assert (found.num_held_out, len(found.references["hash"])) == (59, 59)


def test_few_held_out_images_are_helped_by_training_images_against_each_other() -> None:
    train = seen(normal(30, 8))
    found = measure.calibrate(train, seen(normal(20, 8, seed=1), seed=1), false_alarm=0.05)
    assert (found.num_held_out, len(found.references["features"])) == (20, 50)
    apart = measure.tables(train, train)["features"].fill_diagonal_(9).sort(1).values
    torch.testing.assert_close(found.references["features"][20:], (apart[:, 0] + 0.01) / (apart[:, 1] + 0.01))


def test_copies_among_the_references_calibrate_nothing() -> None:
    """A training image twice, and a held-out image that is one of them, would make copies look usual."""
    rows = normal(12, 8)
    train = seen(torch.cat([rows, rows[:1]]))
    train.signatures[12] = train.signatures[0]
    held_out = seen(torch.cat([rows[3:4], normal(5, 8, seed=2)]), seed=2)
    held_out.signatures[0] = train.signatures[3]
    found = measure.calibrate(train, held_out, false_alarm=0.05)
    assert (found.num_leaked, found.num_held_out) == (1, 5)
    assert len(found.references["features"]) == 5 + 12
    assert float(found.references["features"].min()) > 0.1
    assert found.indices == list(range(12))


def test_a_copy_is_flagged_with_its_original_and_a_stranger_is_not() -> None:
    train, held_out = seen(normal(30, 8)), seen(normal(60, 8, seed=1), seed=1)
    copying = measure.calibrate(train, held_out, false_alarm=0.05)
    samples = seen(torch.cat([train.features[7:8] + 0.01, normal(1, 8, seed=8)]), seed=9)
    found, near = copying.check(samples, 0.05)
    assert found.flagged.tolist() == [True, False]
    assert int(near["features"].row[0]) == 7
    facts = measure.copying_facts(copying, found, 0.05)
    assert (facts.flagged, facts.samples, facts.expected) == (1, 2, pytest.approx(0.1))


def test_without_held_out_images_and_with_few_training_images_the_rate_that_holds_is_told() -> None:
    train = seen(normal(4, 8))
    copying = measure.calibrate(train, train.rows([]), false_alarm=0.05)
    found, _ = copying.check(seen(normal(3, 8, seed=1), seed=1), 0.05)
    assert found.false_alarm == pytest.approx(3 / 5)


def test_a_copy_among_images_that_are_all_alike_is_flagged_by_its_picture_alone() -> None:
    """As logos of one colour on white are: nearness by itself tells nothing, and features and hash see no copy."""
    train, held_out = seen(normal(30, 8)), seen(normal(99, 8, seed=1), seed=1)
    alike = [replace(images, small=230 + images.small // 10) for images in (train, held_out)]
    copying = measure.calibrate(*alike, false_alarm=0.05)
    noise = torch.from_numpy(np.random.default_rng(5).integers(0, 2, (2, 3, 4, 4), dtype=np.uint8))
    copy = replace(seen(normal(2, 8, seed=5), seed=5), small=alike[0].small[[3, 4]] - noise)
    found, near = copying.check(copy, 0.05)
    assert found.flagged.tolist() == [True, True]
    assert near["thumbnail"].row.tolist() == [3, 4]


def test_fidelity_orders_the_brand_itself_a_likeness_and_a_stranger() -> None:
    centre = normal(1, 16, seed=3) * 3
    brand = seen(centre + normal(40, 16))
    near, far = seen(centre + normal(40, 16, seed=1), seed=1), seen(-centre + normal(40, 16, seed=2), seed=2)
    found = [measure.fidelity(images, brand) for images in (brand, near, far)]
    kids, likeness, colours = ([getattr(one, key) for one in found] for key in ("kid", "likeness", "colours"))
    assert kids == sorted(kids)
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[0] == pytest.approx(1)
    assert colours[0] == pytest.approx(0, abs=1e-9)
    assert colours[1] > 0.1


def test_the_part_of_the_way_that_is_gone() -> None:
    assert measure.gap_closed(3.0, 1.5, 1.0) == pytest.approx(0.75)
    assert measure.gap_closed(3.0, 4.0, 1.0) == pytest.approx(-0.5)
    assert measure.gap_closed(1.0, 0.5, 1.0) is None


def test_a_model_that_did_not_change_has_no_drift_and_seeds_are_paired_within_prompts() -> None:
    before = seen(torch.tensor([[1.0, 0], [0, 1.0], [2.0, 0], [2.0, 0]]))
    same = measure.drift(before, before, num_samples=2)
    assert same.changed == same.colours == 0
    assert same.seeds == pytest.approx(0.5)  # prompts' own pairs: 1 and 0
    turned = measure.drift(before, seen(before.features.flip(1)), num_samples=1)
    assert turned.changed == pytest.approx(1)
    assert turned.seeds is None


def test_a_change_by_noise_is_none_and_a_real_one_is() -> None:
    brand, before = seen(normal(30, 16)), seen(normal(24, 16, seed=1) + 1)
    noise, nearer = (seen(before.features + shift) for shift in (0.02 * normal(24, 16, seed=2), -0.8))
    assert measure.kid_change(before, noise, brand, num_samples=2).direction == "same"
    assert measure.kid_change(before, nearer, brand, num_samples=2).direction == "closer"
    assert measure.kid_change(nearer, before, brand, num_samples=2).direction == "further"
    few = measure.kid_change(before.rows([0, 1]), nearer.rows([0, 1]), brand, num_samples=1)
    assert (few.error, few.direction) == (None, "same")
