"""The commands as a user gives them, on points: seconds each."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from warm_process import python

from diffusion_train.command.train import claimed
from diffusion_train.training.checkpoint.checkpoint_file import load
from diffusion_train.training.weights import load_weights

ROOT = Path(__file__).parents[2]
SMALL = [
    "experiment=points",
    "logger=none",
    "debug=record_samples",
    "trainer=cpu",
    "data.batch_size=24",
    "data.num_samples=100",
    "data.holdout=4",
    "network.width=16",
    "network.depth=1",
    "callbacks.samples.num_samples=8",
    "trainer.log_every_n_steps=1",
]


def train(run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python("train.py", *SMALL, f"run_dir={run_dir}", *arguments)


def seen(run_dir: Path) -> tuple[list[list[str]], torch.Tensor]:
    """Keys and losses (steps, batch) of each step."""
    rows = [json.loads(line) for line in (run_dir / "samples_seen.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["keys"] for row in rows], torch.tensor([row["losses"] for row in rows], dtype=torch.float64)


@pytest.mark.slow
def test_train_then_sample_twice(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "trainer.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert "python sample.py run=" in done.stdout
    for name in (
        "config.yaml",
        "metrics.csv",
        "weights.safetensors",
        "checkpoints/last.ckpt",
        "samples/step_00000003.png",
    ):
        assert (tmp_path / "run" / name).is_file(), name
    for out in ("a", "b"):
        ask = [f"run={tmp_path / 'run'}", f"out={tmp_path / out}", "prompts=['']", "num_samples=5"]
        assert python("sample.py", *ask, "sampler=dpm_solver", "sampler.num_steps=4").returncode == 0
    assert (tmp_path / "a" / "grid.png").read_bytes() == (tmp_path / "b" / "grid.png").read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_as_one(tmp_path: Path) -> None:
    """Equal keys, losses and (in float64) weights; then 2 processes go on as 1."""
    exact = "trainer.precision=64-true"
    for arguments in (["one", "trainer.max_steps=8"], ["two", "trainer.max_steps=5", "trainer=ddp_cpu"]):
        done = train(tmp_path / arguments[0], exact, *arguments[1:])
        assert done.returncode == 0, done.stderr
    done = train(tmp_path / "two", exact, "trainer.max_steps=8")
    assert done.returncode == 0, done.stderr
    (keys, losses), (keys_two, losses_two) = seen(tmp_path / "one"), seen(tmp_path / "two")
    assert keys == keys_two
    torch.testing.assert_close(losses_two, losses, rtol=1e-6, atol=0)
    one, two = (load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_two_processes_in_float32_agree_in_every_loss(tmp_path: Path) -> None:
    for arguments in (["one"], ["two", "trainer=ddp_cpu"]):
        done = train(tmp_path / arguments[0], "trainer.max_steps=6", *arguments[1:])
        assert done.returncode == 0, done.stderr
    (keys, losses), (keys_two, losses_two) = seen(tmp_path / "one"), seen(tmp_path / "two")
    assert keys == keys_two
    torch.testing.assert_close(losses_two.mean(1), losses.mean(1), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [24, 25, 47, 61, 72])
def test_two_processes_never_hang_on_small_data(tmp_path: Path, num_samples: int) -> None:
    done = train(tmp_path / "run", "trainer=ddp_cpu", "trainer.max_steps=4", f"data.num_samples={num_samples}")
    assert done.returncode == 0, done.stderr
    keys, _ = seen(tmp_path / "run")
    drawn = [key for step in keys for key in step]
    for start in range(0, 96 - num_samples + 1, num_samples):  # every whole epoch holds every sample once
        assert len(set(drawn[start : start + num_samples])) == num_samples


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_ctrl_c_saves_says_how_to_sample_and_exits_75(tmp_path: Path, trainer: str) -> None:
    command = [
        sys.executable,
        "train.py",
        *SMALL,
        f"run_dir={tmp_path}",
        f"trainer={trainer}",
        "trainer.max_steps=1000000",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "samples_seen.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    assert "python sample.py run=" in out
    _, description = load_weights(tmp_path / "weights.safetensors")
    assert description["step"] == load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] > 0


@pytest.mark.slow
def test_what_cannot_be_is_told_before_the_first_step(tmp_path: Path) -> None:
    done = train(tmp_path, "data.batch_size=7", "trainer.devices=2", "trainer.strategy=ddp")
    assert done.returncode == 2
    assert "data.batch_size=7" in done.stderr
    assert "6 or 8" in done.stderr
    done = train(tmp_path, "trainer.precision=bf16-true")
    assert done.returncode == 2
    assert "trainer.precision=bf16-true: all weights are trained" in done.stderr
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.slow
def test_a_refused_restart_changes_nothing_in_its_folder(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "trainer.max_steps=2", "logger=wandb").returncode == 0
    with (tmp_path / "run" / "metrics.csv").open("a") as metrics:
        metrics.write("3,of a step that was not saved\n")

    def content() -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"
        }

    before = content()
    for argument, told in (
        ("seed=7", "seed: 0 in the checkpoint, 7 now"),
        ("network.width=24", "network.width: 16 in the checkpoint, 24 now"),
        ("diffusion=v_cosine", "diffusion.schedule._target_: .* in the checkpoint, .* now\n"),
    ):
        refused = train(tmp_path / "run", "trainer.max_steps=3", "logger=wandb", argument)
        assert refused.returncode == 2, refused.stderr
        assert re.search(told, refused.stderr), refused.stderr
        assert content() == before


DECISIVE = {
    "optimizer": "optimizer.lr=1e-5",
    "lr_schedule": "lr_schedule.warmup_steps=0",
    "ema": "ema.relative_stds=[0.05]",
    "clip_norm": "clip_norm=0.5",
    "condition_dropout": "condition_dropout=0.1",
    "network": "network.depth=2",
    "diffusion": "diffusion.offset_noise=0.1",
}
APPLIED = {
    "sampler.num_steps": 3,
    "callbacks.samples.every.num_steps": 1,
    "callbacks.checkpointing.every_n_steps": 2,
    "callbacks.validation.num_levels": 2,
}


@pytest.mark.slow
def test_a_setting_that_changes_is_applied_and_recorded_or_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=2").returncode == 0
    for group, override in DECISIVE.items():
        done = train(run, "trainer.max_steps=3", override)
        assert done.returncode == 2, override
        assert f"allow_mismatch=[{group}]" in done.stderr
    assert not (run / "changes.jsonl").exists()
    done = train(run, "trainer.max_steps=3", *(f"{key}={value}" for key, value in APPLIED.items()))
    assert done.returncode == 0, done.stderr
    allowed = "allow_mismatch=[optimizer,lr_schedule,ema,clip_norm]"
    given = [DECISIVE[group] for group in ("optimizer", "lr_schedule", "ema", "clip_norm")]
    done = train(run, "trainer.max_steps=4", allowed, *given)
    assert done.returncode == 0, done.stderr
    assert "settings that differ from the checkpoint's, from step 4 on" in done.stderr
    assert "optimizer.lr: 0.002 -> 1e-05" in done.stderr
    rates = [float(row["train/lr"]) for row in csv.DictReader((run / "metrics.csv").open())]
    assert rates[2] == pytest.approx(2e-3 * 4 / 51)
    assert rates[3] == pytest.approx(1e-5, rel=1e-3)
    first, second = (json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines())
    assert (first["after_step"], second["after_step"]) == (2, 3)
    assert APPLIED.items() <= {key: now for key, (_, now) in first["changed"].items()}.items()
    assert second["changed"]["optimizer.lr"] == [2e-3, 1e-5]


LABELS = ["conditioner=label", "conditioner.num_classes=2", "condition.num_labels=2"]
CANNOT_WORK = {
    "optimizer.lr": ["optimizer.lr=inf"],
    "lr_schedule.num_steps": ["lr_schedule.num_steps=0", "trainer.max_steps=1"],
    "lr_schedule.warmup_steps": ["lr_schedule.warmup_steps=-1"],
    "condition_dropout": ["condition_dropout=2"],
    "guidance.scale=nan": ["guidance=classifier_free", "guidance.scale=nan"],
    "network.width": ["network.width=0"],
    "beta_start": ["diffusion=ddpm", "diffusion.schedule.beta_start=0.5"],
    "guidance.scale": ["guidance=classifier_free", *LABELS],
    "guidance.scale=3": ["guidance=classifier_free", "guidance.scale=3"],  # points have no condition
    "trainer.limit_train_batches": ["+trainer.limit_train_batches=2"],
    "clip_norm": ["+trainer.gradient_clip_val=1"],
    "data.micro_batch_size": ["+trainer.accumulate_grad_batches=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("named", "overrides"), CANNOT_WORK.items(), ids=CANNOT_WORK)
def test_a_setting_that_cannot_work_is_refused_at_the_start(tmp_path: Path, named: str, overrides: list[str]) -> None:
    done = train(tmp_path / "run", *overrides)
    assert done.returncode == 2, done.stdout
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.slow
def test_a_folder_in_use_is_refused_and_free_again_when_its_process_is_gone(tmp_path: Path) -> None:
    holder = "import sys, time; from omegaconf import OmegaConf; from diffusion_train.command.train import claimed\n"
    holder += "cfg = OmegaConf.create({'run_dir': sys.argv[1], 'trainer': {}})\n"
    holder += "with claimed(cfg): print('held', flush=True); time.sleep(60)"
    cfg = OmegaConf.create({"run_dir": str(tmp_path), "trainer": {}})
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on"), claimed(cfg):
        pass
    process.kill()
    process.wait()
    with claimed(cfg):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")


@pytest.mark.slow
def test_an_image_takes_the_place_of_a_prompt(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    arguments = [
        "experiment=super_resolution",
        "trainer.max_steps=1",
        "logger=none",
        "network.channels=[8,8,8]",
        "sampler.num_steps=1",
    ]
    done = python("train.py", *arguments, f"run_dir={tmp_path / 'run'}", "data.batch_size=2")
    assert done.returncode == 0, done.stderr
    ask = [f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "sampler.num_steps=2", "num_samples=2"]
    done = python("sample.py", *ask, f"images=[{tmp_path / 'red.png'}]")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000_000.png", "0000_001.png", "grid.png"]


@pytest.mark.slow
def test_the_default_run_goes_on_bit_for_bit_with_another_number_of_workers(tmp_path: Path) -> None:
    def default(name: str, *arguments: str) -> None:
        given = [f"run_dir={tmp_path / name}", "debug=record_samples", "callbacks=images", "logger=none"]
        assert python("train.py", *given, *arguments).returncode == 0

    default("a", "trainer.max_steps=20")
    default("b", "trainer.max_steps=7")
    default("b", "trainer.max_steps=20", "data.num_workers=2")
    assert (tmp_path / "a" / "samples_seen.jsonl").read_text() == (tmp_path / "b" / "samples_seen.jsonl").read_text()
    a, b = (load(tmp_path / name / "checkpoints" / "last.ckpt") for name in "ab")
    for part in ("state_dict", "ema", "optimizer_states"):
        assert flat(a[part]) == flat(b[part])


def flat(node: object) -> object:
    """Containers with the bytes of their tensors, which can be compared."""
    if isinstance(node, torch.Tensor):
        return node.numpy().tobytes()
    if isinstance(node, dict):
        return {key: flat(value) for key, value in node.items()}
    return [flat(value) for value in node] if isinstance(node, list | tuple) else node
