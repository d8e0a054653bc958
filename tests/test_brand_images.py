"""From a folder of brand images to an export that somebody signs, with no commands but those that each step prints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import brand_photos
import numpy as np
import pytest
import tiny_pipelines
from PIL import Image
from warm_process import PROGRAM, ROOT, python

from diffusion_train.data.image.decode import decode_image
from diffusion_train.report.marks import FORMAT
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import file_sha256

# What makes each step small; the other words of a command are printed by the step before.
SMALL_RUN = ("trainer=cpu", "logger=none", "data.num_workers=0", "data.batch_size=4")
SMALL_TRAINING = (*SMALL_RUN, "trainer.max_steps=4", "sampler.num_steps=2", "callbacks.validation.num_samples=2")
SMALL_REPORT = ("num_prompts=2", "num_samples=1", "scales=[0,1]", "steps=false", "sampler.num_steps=2")


class Walk:
    """Runs commands in a folder, and remembers what the last one printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, subprocess.CompletedProcess([], 0, "", "")

    def run(self, *words: object, code: int = Exit.DONE) -> str:
        """Run a command as a shell would; return what it printed."""
        program, *arguments = map(str, words)
        script = PROGRAM if program == "diffusion-train" else ROOT / arguments.pop(0)
        self.done = python(script, *arguments, cwd=self.folder)
        assert self.done.returncode == code, f"{shlex.join(map(str, words))}\n{self.done.stdout}{self.done.stderr}"
        return self.done.stdout

    def printed(self, start: str, **chosen: object) -> list[str]:
        """Return the words of the printed command that starts so, with `chosen` in place of <...>."""
        lines = [line.strip() for line in self.done.stdout.splitlines() if line.startswith(f"  {start} ")]
        assert lines, f"no command {start!r} in:\n{self.done.stdout}"
        line = re.sub(r"<(\w+)>", lambda match: str(chosen.pop(match[1])), lines[0])
        assert not chosen, f"{lines[0]} lacks {chosen}"
        return shlex.split(line)

    def follow(self, start: str, *small: str, code: int = Exit.DONE, **chosen: object) -> str:
        """Run the printed command that starts so, with settings that make it small."""
        return self.run(*self.printed(start, **chosen), *small, code=code)

    def refused_until_approved(self, run: Path, remedy: str) -> None:
        self.run("diffusion-train", "export", f"run={run}", "out=no", "require_approval=true", code=Exit.WRONG)
        assert "nobody has approved" in self.done.stderr
        assert f"{remedy} run={run}" in self.done.stderr
        assert not (self.folder / "no").exists()


@pytest.mark.slow
def test_a_folder_of_brand_images_becomes_an_export_that_somebody_signed(tmp_path: Path) -> None:
    walk, base = Walk(tmp_path), tiny_pipelines.sd15(tmp_path / "stable_diffusion")
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    table = brand_photos.make(tmp_path / "photos")
    walk.run("diffusion-train", "prepare", "source=csv", f"path={table}", "out=shards", "prepare.max_side=1024")
    everything_is_accounted_for(tmp_path / "shards")

    walk.follow("diffusion-train check", "num_workers=1", model=base, code=Exit.FOUND)
    found = {one["rule"] for one in json.loads((tmp_path / "shards_checked" / "report.json").read_text())}
    assert found == {"unknown-license", "stock-license", "proprietary-license", "transparent-image"}
    the_white_logo_is_seen(tmp_path / "shards")

    walk.follow("diffusion-train encode experiment=brand", *SMALL_RUN)
    assert "images          23 encoded" in walk.done.stdout
    walk.follow("python train.py", *SMALL_TRAINING, "report=false")
    assert "step 4  " in walk.done.stderr
    assert not re.search(r", *(,|  |$)|  ,", walk.done.stderr, re.MULTILINE)
    [run] = (tmp_path / "runs" / "brand").iterdir()
    walk.follow("python sample.py", "sampler.num_steps=2")
    assert '"brandmark' in shlex.join(walk.done.args)
    assert "lack the trigger word" not in walk.done.stderr

    formats = re.search(r"format can be (.*):", walk.done.stdout)[1].split(", ")
    assert sorted(formats) == ["diffusers", "lora_kohya", "lora_peft", "single_file"]
    sampled = walk.done
    for name in formats:
        walk.done = sampled
        walk.follow("diffusion-train export", f"format={name}", folder=name)
        what_is_exported_says_its_rights(tmp_path / name)
        assert "nobody has approved" in (tmp_path / name / "README.md").read_text()

    exported = walk.done
    walk.refused_until_approved(run, "write its report: diffusion-train report")
    walk.done = exported
    walk.follow("diffusion-train report", *SMALL_REPORT)
    reported = walk.done
    walk.refused_until_approved(run, "then run: diffusion-train approve")

    (tmp_path / "marks.json").write_text(json.dumps(marks_of_a_reviewer(run)))
    walk.done = reported
    walk.follow("diffusion-train approve", use="campaign X", name="A. Name")
    [decision] = json.loads((run / "approvals.json").read_text())["decisions"]
    assert (decision["use"], decision["by"], decision["rejected"]) == ("campaign X", "A. Name", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", decision["date"])
    assert decision["weights"] == file_sha256(run / "weights.safetensors")
    walk.follow("diffusion-train export", folder="signed")
    what_is_exported_says_its_rights(tmp_path / "signed")
    card = (tmp_path / "signed" / "README.md").read_text()
    assert re.search(r"approved for campaign X: by A\\?\. Name on \d{4}", card)


def everything_is_accounted_for(shards: Path) -> None:
    left_out = {one["name"].rpartition(" ")[2]: one["reason"] for one in _lines(shards / "left_out.jsonl")}
    assert left_out == brand_photos.LEFT_OUT
    facts = [json.loads(data) for name, data in _members(shards) if name.endswith(".json")]
    assert {Path(one["file"]).name for one in facts} | left_out.keys() == brand_photos.RIGHTS.keys()
    assert len(facts) + len(left_out) == len(brand_photos.RIGHTS) == 30
    assert {one["original_format"] for one in facts if "original_format" in one} >= {"heif", "tiff", "svg", "avif"}


def the_white_logo_is_seen(shards: Path) -> None:
    [data] = [data for name, data in _members(shards) if name == "logo_white.png"]
    assert np.asarray(decode_image(data, "contrast")).std() > 50
    [data] = [data for name, data in _members(shards) if name == "billboard.jpg"]
    assert Image.open(BytesIO(data)).size == (1024, 1024)


def what_is_exported_says_its_rights(out: Path) -> None:
    card = (out / "README.md").read_text()
    head = card.split("---")[1]
    assert "license" not in head, "several images are proprietary or unknown"
    assert "under creativeml-openrail-m" in card
    assert re.search(r"CC-BY-4\.0: (Ada Lovelace, Bo Diddley|Bo Diddley, Ada Lovelace)", card)
    counts = re.findall(r"\| (\S+) \| (\d+) \|", card)
    held_out = int(re.search(r"(\d+) more were held out", card)[1])
    assert sum(int(count) for _, count in counts) + held_out == 28
    assert {"LicenseRef-Proprietary", "LicenseRef-Own", "unknown"} <= {name for name, _ in counts}
    plain = out.parent / "plain"
    plain.touch()
    assert {file.stat().st_mode for file in out.rglob("*") if file.is_file()} == {plain.stat().st_mode}


def marks_of_a_reviewer(run: Path) -> dict[str, object]:
    """What the button "Save marks" of the report writes, after one rejection and one remark without a verdict."""
    report = json.loads((run / "report.json").read_text())
    common = {"verdict": "approve", "remark": "", "reviewer": "A. Name", "time": "2026-01-01T12:00:00.000Z"}
    marks = [{key: one[key] for key in ("image", "prompt", "seed")} | common for one in report["samples"]]
    marks[0] |= {"verdict": "reject", "remark": "the lace is wrong"}
    marks[1] |= {"verdict": "", "remark": "lovely"}
    return {"format": FORMAT, "run": run.name, "weights": report["weights"], "marks": marks}


def _members(shards: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(shards.glob("*.tar")):
        with tarfile.open(file) as shard:
            yield from ((member.name, shard.extractfile(member).read()) for member in shard)


def _lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
