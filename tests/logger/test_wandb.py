from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from diffusion_train.logger.image import log_image
from diffusion_train.logger.metrics_file import MetricsFile
from diffusion_train.logger.wandb import WandB, netrc_key, unusable

KEY = "0123456789abcdef" * 2 + "01234567"


def records(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """What W&B's own reader finds in the newest run of the folder."""
    reader = Path(wandb.__file__).parent / "bin" / "wandb-core"  # what `wandb leet` starts
    command = [str(reader), "leet", "inspect", "-no-observability", "-json", str(run_dir / "wandb")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [record[kind] for record in map(json.loads, text.splitlines()) if record["type"] == kind]


def history(run_dir: Path) -> list[dict[str, Any]]:
    return [record["item"] for record in records(run_dir, "history")]


def healthy(body: str) -> tuple[int, object] | None:
    """A server that accepts the key and then answers nothing more."""
    return (200, {"data": {"viewer": {"id": "someone"}}}) if body.startswith('{"query": "query { viewer') else None


@pytest.mark.slow
def test_without_a_key_the_run_is_offline_and_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = WandB(tmp_path, project="flags", name="first", id="abc123")
    log.log_hyperparams({"data": {"batch_size": 64}})
    log.log_metrics({"train/loss": 0.5}, step=10)
    log.log_metrics({"train/lr": 0.25}, step=10)
    log.log_metrics({"train/loss": 0.125}, step=20)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "grid.png")
    log_image([MetricsFile(tmp_path), log], "samples", tmp_path / "grid.png", "a <b>red</b> flag\x1b[2J\ud800", step=20)
    began = time.monotonic()
    log.finalize("success")
    assert time.monotonic() - began < 5
    assert capfd.readouterr() == ("", "")

    first, second = history(tmp_path)
    assert (first["_step"], first["train/loss"], first["train/lr"]) == (10, 0.5, 0.25)
    assert (second["_step"], second["train/loss"]) == (20, 0.125)
    picture = {name.removeprefix("samples."): value for name, value in second.items() if name.startswith("samples")}
    picture = picture.get("samples", picture)
    assert json.dumps(r"a <b>red</b> flag\x1b[2J\ud800") in json.dumps(picture)
    (run,) = records(tmp_path, "run")
    assert (run["run_id"], run["project"], run["display_name"]) == ("abc123", "flags", "first")
    assert {"data": {"batch_size": 64}} in [record["update"] for record in records(tmp_path, "config")]


def test_secrets_of_the_command_line_and_the_environment_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "token=canary-4711"])
    monkeypatch.setenv("TOKEN", "canary-4711")
    log = WandB(tmp_path, project="p")
    log.log_metrics({"a": 1.0}, step=1)
    log.finalize("success")
    wandb.teardown()  # everything is in the files then
    files = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if b"canary-4711" in path.read_bytes()] == []


@pytest.mark.slow
def test_a_process_that_ends_finishes_its_run_and_imports_wandb_only_for_it(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom diffusion_train.logger.wandb import WandB\nassert 'wandb' not in sys.modules\n"
        "log = WandB(sys.argv[1], project='p')\nlog.log_metrics({'a': 1.0}, step=1)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert history(tmp_path)[0]["a"] == 1
    assert len(records(tmp_path, "exit")) == 1


def test_a_resumed_run_has_the_same_id_and_later_steps(tmp_path: Path) -> None:
    first = WandB(tmp_path / "a", project="p")
    first.log_metrics({"a": 1.0}, step=10)
    first.finalize("failed")
    second = WandB(tmp_path / "b", project="p", id=first.version)
    second.log_metrics({"a": 2.0}, step=20)
    second.finalize("success")
    assert records(tmp_path / "a", "run")[0]["run_id"] == records(tmp_path / "b", "run")[0]["run_id"]
    assert [history(tmp_path / side)[0]["_step"] for side in "ab"] == [10, 20]
    assert [records(tmp_path / side, "exit")[0].get("exit_code", 0) for side in "ab"] == [1, 0]


def test_ids_of_runs_differ() -> None:
    assert WandB(".", project="p").version != WandB(".", project="p").version


def test_mode_disabled_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    WandB(tmp_path, project="p").log_metrics({"a": 1.0}, step=1)
    assert not list(tmp_path.glob("wandb/*run*"))


def test_mode_offline_asks_no_server_though_there_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]
) -> None:
    server = serve(healthy)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = WandB(tmp_path, project="p")
    log.log_metrics({"a": 1.0}, step=1)
    log.finalize("success")
    assert history(tmp_path)[0]["a"] == 1
    assert server.asked == []


FAULTS: dict[str, tuple[Any, str]] = {
    "hangs": (lambda body: None, "does not respond within 1 s|cannot be reached"),
    "fails": (lambda body: (500, {}), "HTTP error 500"),
    "is another server": (lambda body: (200, ["hello"]), "not respond as a W&B server"),
    "refuses the key": (lambda body: (401, {}), "HTTP error 401"),
    "does not know the key": (lambda body: (200, {"data": {"viewer": None}}), "not accept the API key"),
    "dies after the first answer": (healthy, "CommError"),
}


@pytest.mark.parametrize(
    "fault", [name if name == "hangs" else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_server_that_cannot_be_used_makes_the_run_offline_from_the_start(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]
) -> None:
    answer, message = FAULTS[fault]
    server = serve(answer)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log = WandB(tmp_path, project="p", timeout_s=1.0)
    with pytest.warns(UserWarning, match=message):
        log.log_metrics({"a": 1.0}, step=1)
    log.finalize("success")
    runs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 1
    assert KEY not in "".join(path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file())


def beginning(body: str) -> tuple[int, object] | None:
    """A server that lets a run begin, and then answers nothing more."""
    where = {"id": "1", "name": "p", "entity": {"id": "2", "name": "me"}}
    if "RunResumeStatus" in body:
        return 200, {"data": {"model": where | {"bucket": None}}}
    if "UpsertBucket" in body:
        bucket = {"id": "3", "name": "abc", "displayName": "n", "config": "{}", "project": where}
        return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
    return healthy(body)


@pytest.mark.slow
def test_a_server_that_dies_during_the_run_holds_up_neither_training_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", serve(beginning).url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log = WandB(tmp_path, project="p", timeout_s=3.0)
    log.log_metrics({"a": 0.0}, step=0)
    assert log.experiment.settings.mode == "online"
    began = time.monotonic()
    for step in range(1, 50):
        log.log_metrics({"a": float(step)}, step=step)
    assert time.monotonic() - began < 2
    began = time.monotonic()
    log.finalize("success")
    assert time.monotonic() - began < 6
    wandb.teardown()  # as at the end of the process
    assert [row["_step"] for row in history(tmp_path)] == list(range(50))


@pytest.mark.slow
def test_the_end_of_the_w_and_b_process_ends_no_run(tmp_path: Path) -> None:
    """In a process of its own, because W&B keeps what is left of its service."""
    code = f"""
import os, signal, subprocess, warnings
from diffusion_train.logger.wandb import WandB
log = WandB({str(tmp_path)!r}, project="p", id="abc")
log.log_metrics({{"a": 1.0}}, step=1)
service = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
for process in service:
    try:
        os.kill(int(process), signal.SIGKILL)
    except ProcessLookupError:
        pass
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for step in range(2, 200):
        log.log_metrics({{"a": 1.0}}, step=step)
        log.log_hyperparams({{"b": 2}})
    log.finalize("success")
assert [str(w.message) for w in caught if "the run continues without it" in str(w.message)], caught
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    began = time.monotonic()
    assert "cannot be reached" in str(unusable("http://127.0.0.1:9", KEY, timeout_s=5))
    assert time.monotonic() - began < 2


def test_the_key_is_sent_to_its_server_and_to_none_that_it_points_to(serve: Callable[..., Any]) -> None:
    elsewhere = serve(lambda body: (200, {"data": {"viewer": {"id": "someone"}}}))
    server = serve(lambda body: (302, elsewhere.url))
    assert unusable(server.url, KEY, timeout_s=5) is None
    expected = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
    assert server.asked == [("/graphql", expected)]
    assert [key for _, key in elsewhere.asked] == [""]


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [("https://wandb.example.com", "mine"), ("https://api.forge.coreweave.com", "old"), ("http://x", None)],
    ids=["own server", "hosted, known by its older name", "unknown"],
)
def test_the_key_of_wandb_login_is_found(
    base_url: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(
        "machine wandb.example.com\n  login user\n  password mine\nmachine api.wandb.ai\n  login user\n  password old\n"
    )
    monkeypatch.setenv("NETRC", str(path))
    assert netrc_key(base_url) == expected


def test_no_netrc_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log = WandB(tmp_path, project="p", timeout_s=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.log_metrics({"a": 1.0}, step=1)
    assert not (tmp_path / "netrc").exists()
