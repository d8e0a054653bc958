"""The report as a user asks for it: on a tiny run with and without a base, and with a reviewer's marks."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
from PIL import Image
from warm_process import PROGRAM, python

from diffusion_train.data.shard.writer import write_shards
from diffusion_train.report.marks import FORMAT

ROOT = Path(__file__).parents[2]
SMALL = ["experiment=ddpm_cifar_style", "trainer=cpu", "logger=none", "callbacks=training", "trainer.max_steps=2"]
SMALL += ["data.image_size=16", "data.batch_size=2", "data.num_workers=0", "data.holdout=3", "network=unet_tiny"]
SMALL += ["callbacks.validation.num_samples=2", "sampler.num_steps=2", "callbacks.checkpointing.every_n_steps=1"]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python(PROGRAM, *arguments)


def report_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text("utf-8"))


def noise(number: int, side: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first`, trained from nothing, and `second`, which goes on from it."""
    folder = tmp_path_factory.mktemp("runs")
    samples = ({"__key__": f"k{i}", "png": noise(i), "txt": f"noise <b>{i}</b>", "json": {}} for i in range(9))
    [shard] = write_shards(samples, folder / "shards", "noise", 9)
    for name, others in {"first": [], "second": [f"pretrained={folder / 'first'}"]}.items():
        done = call("train", *SMALL, f"data.shards={shard}", f"run_dir={folder / name}", *others)
        assert done.returncode == 0, done.stderr
        done = call("report", f"run={folder / name}", "num_prompts=2", "scales=[0,1]")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_run_from_nothing_has_no_before_and_one_with_a_base_has(runs: Path) -> None:
    first, second = report_of(runs / "first"), report_of(runs / "second")
    assert (first["base"], first["drift"], first["fidelity"]["base"]) == (None, None, None)
    assert [row["axis"] for row in first["sweep"]["rows"]] == ["step", "step"]
    assert {sample["before"] for sample in first["samples"]} == {None}
    assert second["base"] == "first"
    assert [row["name"] for row in second["sweep"]["rows"]] == ["scale 0", "scale 1", "step 1", "step 2"]
    kid = {row["name"]: row["kid"] for row in second["sweep"]["rows"]}
    assert kid["scale 1"] == kid["step 2"] == second["fidelity"]["run"]["kid"]  # the same samples as in the card
    assert kid["scale 0"] == second["fidelity"]["base"]["kid"]
    assert {sample["own"] is None for sample in second["samples"] if sample["set"] != "general"} == {False}
    assert {sample["set"] for sample in second["samples"]} == {"brand", "learned", "general"}
    assert [entry["licenses"][0]["terms"] for entry in second["rights"]] == [["unknown"], ["unknown"]]


@pytest.mark.slow
def test_before_and_after_are_samples_that_sample_py_gives(runs: Path, tmp_path: Path) -> None:
    sample = report_of(runs / "second")["samples"][1]
    for run, name in (("first", sample["before"]), ("second", sample["image"])):  # which read no prompts
        done = call("sample", f"run={runs / run}", "num_samples=2", f"out={tmp_path / run}")
        assert done.returncode == 0, done.stderr
        made = np.asarray(Image.open(tmp_path / run / "0000_001.png"), int)
        shown = np.asarray(Image.open(runs / "second" / "report_images" / f"{name}.png"), int)
        assert np.abs(made - shown).max() <= 1  # batches of other sizes round otherwise


@pytest.mark.slow
def test_marks_are_taken_in_kept_and_counted_without_measuring_again(runs: Path, tmp_path: Path) -> None:
    run, before = runs / "first", report_of(runs / "first")
    image = before["samples"][0]["image"]
    mark = {"prompt": "x", "seed": 0, "verdict": "reject", "remark": "off <i>colour", "reviewer": "Ada", "time": "2026"}
    marks = [{**mark, "image": image}, {**mark, "image": "0" * 32}]
    (tmp_path / "marks.json").write_text(json.dumps({"format": FORMAT, "marks": marks}))
    done = call("report", f"run={run}", f"marks={tmp_path / 'marks.json'}")
    assert done.returncode == 0, done.stderr
    assert "2 marks, 1 of them on images that this report does not show" in done.stdout
    assert report_of(run) == {**before, "marks": marks}
    assert "off &lt;i&gt;colour" in (run / "report.html").read_text("utf-8")
    done = call("report", f"run={run}", "num_prompts=2")
    assert report_of(run)["marks"] == marks
    assert [sample["image"] for sample in report_of(run)["samples"]] == [one["image"] for one in before["samples"]]


@pytest.mark.slow
def test_a_training_run_writes_its_report_when_it_is_done(runs: Path, tmp_path: Path) -> None:
    shard = next((runs / "shards").glob("*.tar"))
    done = call("train", *SMALL, f"data.shards={shard}", f"run_dir={tmp_path / 'run'}", "report=true")
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "run")["step"] == 2
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_a_lora_on_stable_diffusion(tmp_path: Path) -> None:
    """Latents, a base that is no run of ours, its licence, and pictures that are larger than what is kept of them."""
    pytest.importorskip("diffusers")
    base = tiny_pipelines.sd15(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    samples = ({"__key__": f"k{i}", "png": noise(i, 72), "txt": f"red apple {i}", "json": {}} for i in range(8))
    [shard] = write_shards(samples, tmp_path / "shards", "noise", 8)
    words = ["experiment=sd15_lora", f"pretrained={base}", f"data.shards={shard}", f"run_dir={tmp_path / 'run'}"]
    words += ["trainer=cpu", "trainer.precision=32-true", "logger=none", "~callbacks.samples", "~callbacks.validation"]
    words += ["trainer.max_steps=1", "data.batch_size=2", "data.num_workers=0", "data.holdout=2", "data.image_size=72"]
    done = call("train", *words, "sampler.num_steps=2")
    assert done.returncode == 0, done.stderr
    done = call("report", f"run={tmp_path / 'run'}", "num_prompts=1", "scales=[0,1]", "steps=false")
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "run")
    assert report["base"] == "base"
    assert report["prompts"]["general"] == {"count": 1, "origin": "everyday things"}
    assert [row["name"] for row in report["sweep"]["rows"]] == ["scale 0", "scale 1"]
    assert report["sweep"]["rows"][0]["drift"] == pytest.approx(0, abs=1e-4)
    assert [entry["licenses"][0]["name"] for entry in report["rights"]] == ["unknown", "creativeml-openrail-m"]
    names = {sample[name] for sample in report["samples"] for name in ("before", "image")}
    names |= {sample["copying"]["hash"]["image"] for sample in report["samples"]}
    files = {file.stem: Image.open(file).size for file in (tmp_path / "run" / "report_images").glob("*.png")}
    assert files.keys() >= names
    assert {files[name] for name in names} == {(72, 72)}


@pytest.mark.slow
def test_mistakes_are_told_with_their_remedy(runs: Path, tmp_path: Path) -> None:
    weights = runs / "first" / "weights.safetensors"
    for arguments, told in (
        ([f"run={runs / 'first'}", "false_alarm=0"], "a fraction between 0 and 1"),
        (
            [f"run={runs / 'first'}", f"marks={tmp_path / 'none.json'}"],
            'the button "Save marks" of the report writes it',
        ),
        ([f"run={weights}"], "must be a run folder, into which the report is written"),
        ([f"run={runs / 'second'}", f"pretrained={tmp_path / 'gone'}"], "pretrained="),
    ):
        done = call("report", *arguments)
        assert done.returncode == 2, done.stdout
        assert told in done.stderr
