"""Going on with other processes, another division of a batch, or other data."""

from __future__ import annotations

import pytest

from diffusion_train.utils.exit_code import Exit


@pytest.fixture
def shards(make_shards):
    return make_shards(20, 10)


@pytest.mark.slow
def test_another_number_of_ranks_or_workers_at_resume(shards, make_dataset, global_batches, train):
    dataset = make_dataset(shards)
    whole = global_batches(dataset, [(1, 0, 6)])
    assert global_batches(dataset, [(2, 2, 2), (1, 0, 2), (4, 1, 2)]) == whole
    run = train(shards, "data.batch_size=6", "trainer=ddp_cpu", "trainer.devices=4")
    assert run.code == Exit.WRONG
    assert "data.batch_size=6: must be divisible by 4, for 4 process(es) and data.num_lanes=1; use 4 or 8" in run.told


@pytest.mark.slow
def test_another_micro_batch_at_resume(shards, train):
    whole = train(shards, "trainer.max_steps=3", folder="whole")
    assert whole.code == Exit.DONE, whole.told
    for steps, micro in ((1, 1), (3, 3)):
        part = train(shards, f"trainer.max_steps={steps}", f"data.micro_batch_size={micro}", folder="parts")
        assert part.code == Exit.DONE, part.told
    assert part.batches == whole.batches
    assert [len(batch) for batch in whole.batches] == [4] * 3


@pytest.mark.slow
def test_a_data_set_that_grew_or_shrank(shards, make_shards, train):
    assert train(shards, "trainer.max_steps=1").code == Exit.DONE
    for changed in ([*shards, *make_shards(10, 10, "more")], shards[:1]):
        run = train(changed, "trainer.max_steps=2")
        assert run.code == Exit.WRONG
        assert "the run cannot resume exactly from its checkpoint" in run.told
        assert "\n  data: " in run.told
        assert "allow_mismatch=[data]" in run.told
        assert "data.order" not in run.told
