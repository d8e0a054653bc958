"""How a training run ends early: by signals, a full disk or its launcher, at any moment, with one process or two."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from warm_process import python

from diffusion_train.command.cli import guarded
from diffusion_train.config import ConfigError
from diffusion_train.training.checkpoint.checkpoint_file import load
from diffusion_train.training.weights import load_weights
from diffusion_train.training_run import check_launch
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.process.interruption import Interrupted, interruptible
from diffusion_train.utils.process.launcher import num_started

ROOT = Path(__file__).parents[2]
SMALL = [
    "experiment=points",
    "logger=none",
    "data.batch_size=24",
    "data.num_samples=100",
    "data.holdout=4",
    "network.width=16",
    "network.depth=1",
    "callbacks.samples.num_samples=8",
    "callbacks.checkpointing.every_n_steps=2",
    "trainer.log_every_n_steps=1",
]
# Its processes are started by their file, so that what is patched is patched in all of them.
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
{patch}
from diffusion_train.command.cli import launch
sys.exit(launch("train", sys.argv[1:]))
"""
AT_STEP_3 = """
from diffusion_train.callbacks.stop import GracefulStop
before = GracefulStop.on_train_batch_end
def then(self, trainer, *rest):
    for number in ({numbers}) if trainer.global_step == 3 else ():
        os.kill(os.getpid(), number)
    return before(self, trainer, *rest)
GracefulStop.on_train_batch_end = then
"""
IN_FIT = """
from diffusion_train.callbacks.checkpointing import Checkpointing
Checkpointing.on_fit_start = lambda *rest: os.kill(os.getpid(), {number})
"""
SLOW_END_OF_LOGGERS = """
from diffusion_train.logger.metrics_file import MetricsFile
MetricsFile.finalize = lambda *rest: time.sleep(7 * (os.environ.get("LOCAL_RANK", "0") == "0"))
"""
WAITING_FOR_DATA = """
import threading
from diffusion_train.callbacks.stop import GracefulStop
from diffusion_train.data.loader import BatchDataset
read = BatchDataset.__getitems__
BatchDataset.__getitems__ = lambda self, numbers: (time.sleep(1), read(self, numbers))[1]
before = GracefulStop.on_train_batch_end
def then(self, trainer, *rest):
    if trainer.global_step == 3:
        threading.Timer(0.3, os.killpg, (0, {number})).start()
    return before(self, trainer, *rest)
GracefulStop.on_train_batch_end = then
"""
AT_THE_END = """
from diffusion_train.callbacks.validation import Validation
Validation.on_train_end = lambda *rest: os.kill(os.getpid(), signal.SIGTERM)
"""
IN_THE_REPORT = """
import diffusion_train.report.brand_report
diffusion_train.report.brand_report.write_report = lambda *rest: os.kill(os.getpid(), signal.SIGTERM)
"""
IN_LONG_WORK = """
import threading
from diffusion_train.callbacks.validation import Validation
from diffusion_train.pipeline import Pipeline
def work(*rest):
    if os.environ.get("LOCAL_RANK", "0") == "{rank}":
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    time.sleep(300)
{method} = work
"""
WORKER_KILLED = """
from diffusion_train.data.loader import BatchDataset
read = BatchDataset.__getitems__
def then(self, numbers):
    if numbers == [7] and os.environ.get("LOCAL_RANK", "0") == "{rank}":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, numbers)
BatchDataset.__getitems__ = then
"""
WHILE_THE_SECOND_PROCESS_STARTS = """
if "LOCAL_RANK" in os.environ:
    os.killpg(0, signal.SIGTERM)
"""
SLOW_FIRST_PROCESS = """
import diffusion_train.callbacks.checkpointing as checkpointing, diffusion_train.command.train as train
save, farewell = checkpointing.save_weights, train.farewell
checkpointing.save_weights = lambda *rest: (time.sleep(7), save(*rest))
train.farewell = lambda run: (time.sleep(7 * run.trainer.is_global_zero), farewell(run))
"""


def train(
    folder: Path, patch: str, *arguments: str, start_new_session: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    script = folder / "patched.py"
    script.write_text(SCRIPT.format(root=str(ROOT), patch=patch))
    words = [str(script), *SMALL, f"run_dir={folder / 'run'}", *arguments]
    environment = {**os.environ, **environment}
    if not start_new_session:
        return python(*words, env=environment)
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, start_new_session=True
    )


def test_a_clusters_signal_interrupts_and_is_told_with_what_to_do(capsys) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def body() -> Exit:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Interrupted as signaled:
                signaled.add_note("what to do")
                raise
        return Exit.DONE

    assert guarded(body) == Exit.STOPPED
    assert capsys.readouterr().err == "\nSIGTERM: interrupted\nwhat to do\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "number", "code"),
    [
        ("cpu", signal.SIGINT, 130),
        ("cpu", signal.SIGTERM, 75),
        ("ddp_cpu", signal.SIGINT, 130),
        ("ddp_cpu", signal.SIGUSR1, 75),
    ],
)
def test_a_signal_before_the_first_step(tmp_path: Path, trainer: str, number: int, code: int) -> None:
    patch = IN_FIT.format(number=int(number)) + SLOW_END_OF_LOGGERS
    done = train(tmp_path, patch, f"trainer={trainer}", "trainer.max_steps=5")
    assert done.returncode == code, done.stderr
    assert "interrupted\nno step of this run was saved; the same command starts where this one did" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_second_signal_leaves_at_once_and_says_what_is_saved(tmp_path: Path) -> None:
    done = train(tmp_path, AT_STEP_3.format(numbers="signal.SIGINT, signal.SIGINT"), "trainer=cpu")
    assert done.returncode == 130, done.stderr
    assert "interrupted\nthe same command with run_dir=" in done.stderr
    assert "resumes from step 2, the last one saved" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_reaches_the_workers_of_the_data_too(tmp_path: Path, number: int) -> None:
    """As of a terminal's Ctrl-C, `timeout` and a cluster."""
    patch = WAITING_FOR_DATA.format(number=int(number))
    done = train(tmp_path, patch, "trainer=cpu", "data.num_workers=2", start_new_session=True)
    assert done.returncode == 75, done.stderr
    assert "stopped at step " in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_signal_while_everything_is_still_imported(tmp_path: Path) -> None:
    patch = (
        "from diffusion_train.config.command_line import launch\n"
        "launch.first_pass = lambda call: os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = train(tmp_path, patch)
    assert (done.returncode, done.stderr) == (75, "\nSIGTERM: interrupted\n")


@pytest.mark.slow
def test_a_signal_to_all_while_the_second_process_starts(tmp_path: Path) -> None:
    """The first one waits for the second inside a library, where Python handles no signals."""
    done = train(tmp_path, WHILE_THE_SECOND_PROCESS_STARTS, "trainer=ddp_cpu", start_new_session=True)
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "rank", "method", "name"),
    [
        ("cpu", 0, "Pipeline.sample", "SampleScatter"),
        ("ddp_cpu", 0, "Validation._errors", "Validation"),
        ("ddp_cpu", 1, "Pipeline.sample", "SampleScatter"),
    ],
)
def test_a_signal_in_long_work_between_two_steps(
    tmp_path: Path, trainer: str, rank: int, method: str, name: str
) -> None:
    patch = IN_LONG_WORK.format(rank=rank, method=method)
    callback = "samples" if name == "SampleScatter" else "validation"
    done = train(
        tmp_path, patch, f"trainer={trainer}", f"callbacks.{callback}.every.num_steps=3", "trainer.max_steps=100"
    )
    assert done.returncode == 75, done.stderr
    assert done.stderr.count(f"{name}: left out at step 3, because the run is stopping") == 1
    assert "Traceback" not in done.stderr
    assert load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "rank"), [("cpu", 0), ("ddp_cpu", 1)])
def test_a_killed_data_worker_is_named_and_the_run_is_saved(tmp_path: Path, trainer: str, rank: int) -> None:
    patch = WORKER_KILLED.format(rank=rank)
    settings = [f"trainer={trainer}", "data.num_workers=2", "callbacks.checkpointing.every_n_steps=100"]
    done = train(tmp_path, patch, *settings, start_new_session=True)
    assert done.returncode == 75, done.stderr
    assert re.search(r"data worker 1 \(process \d+\) was ended by SIGKILL; .* reduce data.num_workers", done.stderr)
    step = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert step >= 3  # what the worker had read, but not handed over, is lost with it
    assert f"resumes from step {step}, the last one saved" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_signal_while_the_end_is_saved_leaves_out_what_comes_after(tmp_path: Path) -> None:
    done = train(tmp_path, AT_THE_END, "-m", "trainer=cpu", "trainer.max_steps=5", "seed=0,1", "report=true")
    assert done.returncode == 75, done.stderr
    assert f"its report is not written; run: diffusion-train report run={tmp_path / 'run' / '0'}" in done.stderr
    assert "SIGTERM: the run is saved and ending" in done.stderr
    assert "SampleScatter: left out at step 5" in done.stderr
    assert load(tmp_path / "run" / "0" / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert not (tmp_path / "run" / "1").exists()


@pytest.mark.slow
def test_a_signal_while_the_report_is_written_says_how_to_write_it(tmp_path: Path) -> None:
    done = train(tmp_path, IN_THE_REPORT, "trainer=cpu", "trainer.max_steps=3", "report=true")
    assert done.returncode == 75, done.stderr
    assert f"its report is not written; run: diffusion-train report run={tmp_path / 'run'}" in done.stderr


@pytest.mark.slow
def test_of_two_processes_none_ends_before_the_first_one_has_saved(tmp_path: Path) -> None:
    """Lightning kills the first within seconds after the second."""
    patch = AT_STEP_3.format(numbers="signal.SIGTERM,") + SLOW_FIRST_PROCESS
    done = train(tmp_path, patch, "trainer=ddp_cpu", "callbacks.checkpointing.every_n_steps=1000")
    assert done.returncode == 75, done.stderr
    assert "stopped at step 3" in done.stdout
    _, description = load_weights(tmp_path / "run" / "weights.safetensors")
    assert description["step"] == load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_a_disk_that_takes_no_more_ends_with_4_and_a_line(tmp_path: Path, trainer: str) -> None:
    """A limit on the size of files stands for a full disk: other libraries report both alike."""
    patch = (
        "import resource\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, -1))"
    )
    done = train(tmp_path, patch, f"trainer={trainer}", "network.width=64", "trainer.max_steps=4")
    assert done.returncode == 4, done.stderr
    assert "step_00000002.ckpt: File too large\nno step of this run was saved" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.slow
def test_a_sweep_of_two_processes_starts_them_for_every_run(tmp_path: Path) -> None:
    done = train(tmp_path, "", "-m", "trainer=ddp_cpu", "trainer.max_steps=3", "seed=0,1")
    assert done.returncode == 0, done.stderr
    for number in "01":
        assert load(tmp_path / "run" / number / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.slow
def test_processes_that_were_not_asked_for_are_refused(tmp_path: Path) -> None:
    done = train(tmp_path, "", "trainer=cpu", WORLD_SIZE="2", RANK="1", LOCAL_RANK="1")
    assert done.returncode == 2, done.stderr
    assert "must have 1 nodes x 1 devices = 1 processes, but the launcher started 2;" in done.stderr


class Environment(NamedTuple):
    creates_processes_externally: bool


SEEN, UNSEEN = Environment(True), Environment(False)


@pytest.mark.parametrize(
    ("variables", "started", "environment", "refused"),
    [
        ({}, 1, None, []),
        ({"WORLD_SIZE": "1"}, 1, UNSEEN, []),
        ({"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}, 1, SEEN, [(2, 1), (2, 2)]),
        ({"WORLD_SIZE": "4"}, 4, UNSEEN, [(1, 1), (2, 1)]),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"}, 4, SEEN, [(1, 1), (2, 1)]),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 4, UNSEEN, [(1, 1), (2, 1), (2, 2)]),
        ({"SLURM_NTASKS": "8"}, 1, UNSEEN, []),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2, SEEN, [(1, 1), (2, 2)]),
        ({"PMI_SIZE": "2"}, 2, UNSEEN, [(1, 1), (2, 1), (2, 2)]),
    ],
    ids=["alone", "one", "torchrun", "four", "srun", "interactive", "sbatch", "mpirun", "mpich"],
)
def test_how_many_a_launcher_started(monkeypatch, variables, started, environment, refused) -> None:
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert num_started() == started
    for num_devices, num_nodes in ((1, 1), (2, 1), (2, 2)):
        if (num_devices, num_nodes) in refused:
            with pytest.raises(ConfigError, match=f"launcher started {started}\\b"):
                check_launch(num_devices, num_nodes, environment)
        else:
            check_launch(num_devices, num_nodes, environment)
