"""An approval is recorded with the run, shown in its report, and holds for the weights that were judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from report_content import report

from diffusion_train import config
from diffusion_train.approval import Decision, approvals_of, record, reviewing
from diffusion_train.command.cli import launch
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.folders import conf_folder
from diffusion_train.report.marks import FORMAT
from diffusion_train.training.weights import load_weights, save_weights
from diffusion_train.utils.files import file_sha256

ADA = ("use='campaign X'", "by='A. Name'")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    cfg, mistakes = Composer("config", [conf_folder()]).config(["experiment=points", f"run_dir={folder}"])
    assert not mistakes
    del cfg.hydra
    save_weights(
        folder / "weights.safetensors", {"w": torch.zeros(3)}, {"step": 1, "shape": [1], "config": config.redact(cfg)}
    )
    content = report(weights=file_sha256(folder / "weights.safetensors"), scale=None)
    (folder / "report.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run folder with a report of its weights, whose samples are the images a... and b..."""
    return shutil.copytree(made, tmp_path / "run")


def marks(run: Path, verdicts: dict[str, str], reviewer: str = "Ada", **other: Any) -> Path:
    one = {"prompt": "", "seed": 0, "remark": "r", "reviewer": reviewer, "time": "2026"}
    listed = [{**one, "image": image * 32, "verdict": verdict} for image, verdict in verdicts.items()]
    file = run.parent / "marks.json"
    weights = file_sha256(run / "weights.safetensors")
    file.write_text(json.dumps({"format": FORMAT, "weights": weights, "marks": listed, **other}))
    return file


def approve(run: Path, *arguments: object) -> int:
    return launch("approve", [f"run={run}", *map(str, arguments)])


def valid(run: Path) -> list[tuple[str, str]]:
    return [(one.use, one.by) for one in approvals_of(run, None).valid]


def test_an_approval_is_recorded_and_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = marks(run, {"a": "approve", "b": "reject"})
    assert approve(run, f"marks={file}", *ADA) == 0
    assert "approved for campaign X: by A. Name on 20" in capsys.readouterr().out
    [decision] = json.loads((run / "approvals.json").read_text())["decisions"]
    assert (decision["weights"], decision["marks"]) == (file_sha256(run / "weights.safetensors"), file_sha256(file))
    assert [decision[name] for name in ("approved", "rejected", "not_judged")] == [1, 1, 0]
    page = (run / "report.html").read_text("utf-8")
    assert "Approved for <b>campaign X</b> by A. Name on" in page
    assert page.count("<b>Ada</b>: reject, r") == 1  # the marks are in the report too


def test_what_other_reviewers_rejected_is_rejected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("report", [f"run={run}", f"marks={marks(run, {'a': 'reject'}, reviewer='Bob')}"]) == 0
    assert approve(run, f"marks={marks(run, {'a': 'approve'})}", *ADA) == 2
    assert "approved and not rejected by anybody, got 1 rejected" in capsys.readouterr().err
    assert approve(run, f"marks={marks(run, {'b': 'approve'})}", *ADA) == 0
    assert "(1 samples approved, 1 rejected, 0 of brand prompts not judged)" in capsys.readouterr().out
    (run / "report.json").write_text(json.dumps(report(weights=file_sha256(run / "weights.safetensors"), scale=None)))
    assert approve(run, f"marks={marks(run, {'b': 'approve'})}", *ADA) == 0
    assert "(1 samples approved, 0 rejected, 1 of brand prompts not judged)" in capsys.readouterr().out


def test_a_report_of_another_model_is_not_approved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(content | {"changed": ["adapter.alpha"]}))
    assert approve(run, f"marks={marks(run, {'a': 'approve'})}", *ADA) == 2
    assert (
        "other settings of the model than the run has (adapter.alpha); make the report again" in capsys.readouterr().err
    )


def test_two_who_approve_at_once_wait_for_each_other(run: Path) -> None:
    record_ours = Decision(verdict="approved", use="stickers", by="Bob", date="2026", weights="w", scale=None)
    other = Thread(target=approve, args=(run, f"marks={marks(run, {'a': 'approve'})}", *ADA))
    with reviewing(run):
        other.start()
        other.join(2)
        assert other.is_alive()
        assert not (run / "approvals.json").exists()
        record(run, record_ours)
    other.join()
    assert [one.use for one in approvals_of(run, None).decisions] == ["stickers", "campaign X"]


def test_several_follow_one_another_and_one_is_withdrawn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = marks(run, {"a": "approve"})
    assert approve(run, f"marks={file}", *ADA) == 0
    assert approve(run, f"marks={file}", "use=stickers", "by=Bob") == 0
    assert valid(run) == [("campaign X", "A. Name"), ("stickers", "Bob")]
    assert approve(run, "use=stickers", "by=Cem", "revoke=true") == 0
    assert "no approval for stickers: withdrawn by Cem on 20" in capsys.readouterr().out
    assert valid(run) == [("campaign X", "A. Name")]
    assert "Not approved for <b>stickers</b>: withdrawn by Cem" in (run / "report.html").read_text("utf-8")
    assert approve(run, "use=stickers", "by=Cem", "revoke=true") == 2
    assert (
        "use=stickers: is not approved, so it cannot be withdrawn; approved are: campaign X" in capsys.readouterr().err
    )
    assert len(json.loads((run / "approvals.json").read_text())["decisions"]) == 3


def test_other_weights_have_no_approval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = marks(run, {"a": "approve"})
    assert approve(run, f"marks={file}", *ADA) == 0
    save_weights(run / "weights.safetensors", {"w": torch.ones(3)}, load_weights(run / "weights.safetensors")[1])
    assert valid(run) == []
    assert approvals_of(run, None).describe() == [
        "no approval for campaign X: out of date: the weights have changed since"
    ]
    assert approve(run, f"marks={file}", *ADA) == 2
    assert "the weights have changed since the report was made; make the report again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdicts", "arguments", "told"),
    [
        ({"a": "reject"}, ADA, "must be approved and not rejected by anybody, got 1 rejected"),
        ({"c": "approve"}, ADA, "must be approved and not rejected by anybody, got 0 rejected"),
        ({"a": "approve"}, ("use=' '", "by=Ada"), "use= \n    must not be empty"),
        ({"a": "approve"}, ("use=x",), "by\n    must be given"),
        ({"a": "approve"}, (*ADA, "revoke=true"), "is not read with revoke=true"),
        ({"a": "approve"}, (*ADA, "sampler.num_steps=3"), "nothing reads this key"),
    ],
)
def test_what_is_no_approval_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], verdicts: dict[str, str], arguments: tuple[str, ...], told: str
) -> None:
    assert approve(run, f"marks={marks(run, verdicts)}", *arguments) == 2
    assert told in capsys.readouterr().err
    assert not (run / "approvals.json").exists()


def test_marks_are_needed_and_must_be_of_these_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert approve(run, *ADA) == 2
    assert 'the button "Save marks" of the report' in capsys.readouterr().err
    assert approve(run, f"marks={marks(run, {'a': 'approve'}, weights='0' * 64)}", *ADA) == 2
    assert "the marks are of images of other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "x"}', '{"format": "diffusion_train approvals 1", "decisions": [{"by": 1}]}']
)
def test_a_damaged_record_is_an_error_and_stays(run: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (run / "approvals.json").write_text(content)
    assert approve(run, f"marks={marks(run, {'a': 'approve'})}", *ADA) == 2
    told = capsys.readouterr().err
    assert "approvals.json: cannot be read" in told
    assert "restore it from a backup, or move it away and approve again" in told
    assert (run / "approvals.json").read_text() == content
