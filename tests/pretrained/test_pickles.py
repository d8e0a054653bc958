"""Tensors come out of pickles, and nothing else of them happens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import original_names
import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file

from diffusion_train.command.cli import main
from diffusion_train.pretrained import diffusers_folder, origin
from diffusion_train.pretrained.pickles import unpickled


class Runs:
    """What a pickle may do: call a function when it is read."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.fixture(params=["state", "items"])
def foreign(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An object of a class that whoever reads it does not have: with state, one of numpy's among it, or with items."""
    module = ModuleType("some_trainer")
    kind = type("Kind", (object if request.param == "state" else dict,), {"__module__": "some_trainer"})
    module.Kind = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_trainer", module)
    made = kind()
    if request.param == "state":
        made.path, made.score, made.mean = "a/b", torch.ones(2), np.float64(0.5)
    else:
        made.update(path="a/b", score=torch.ones(2), inner=kind(b=1))
        made.told = True
    return made


def test_a_checkpoint_of_training_becomes_a_model(
    tmp_path: Path, foreign: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tiny_pipelines.make("sd15", tmp_path / "in")
    parts = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    parts["text_encoder"] = transformers.CLIPTextModel
    weights = original_names.single_file(
        {name: kind.from_pretrained(folder / name) for name, kind in parts.items()}, "sd1"
    )
    file, out = tmp_path / "model.ckpt", tmp_path / "model.safetensors"
    harm = Runs(open, str(tmp_path / "harm"), "w")
    torch.save({"global_step": 7, "callbacks": {"of": foreign, "and": harm}, "state_dict": weights}, file)
    monkeypatch.delitem(sys.modules, "some_trainer")
    with pytest.raises(ValueError, match=f"diffusion-train unpickle path={file} out={out}"):
        origin.kind(str(file))
    assert main(["unpickle", f"path={file}", f"out={out}"]) == 0
    told = capsys.readouterr().out
    assert f"{len(weights):,} tensors" in told
    assert "some_trainer.Kind" in told
    assert not (tmp_path / "harm").exists()
    found = load_file(out)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert origin.kind(str(out)) == "file"


def test_a_folder_with_pickles_alone_names_the_command_that_mends_it(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    folder = tiny_pipelines.make("sd15", tmp_path / "in")
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    torch.save(weights, folder / "text_encoder" / "pytorch_model.bin")
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="text_encoder/ holds weights only as a pickle") as caught:
        origin.folder(str(folder))
    command = str(caught.value).partition("diffusion-train ")[2].split()
    assert main(command) == 0
    assert origin.folder(str(folder)) == folder
    [there] = [
        file for name, file in diffusers_folder.weight_files(folder, "it").items() if name.startswith("text_encoder")
    ]
    assert all(torch.equal(value, weights[name]) for name, value in load_file(there).items())


def test_tensors_that_share_memory_come_out_whole(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": whole, "b": whole[1], "c": whole.t(), "n": 3, "list": [whole]}, tmp_path / "model.pt")
    tensors, left_out = unpickled(tmp_path / "model.pt")
    assert left_out == []
    assert tensors.keys() == {"a", "b", "c"}
    assert torch.equal(tensors["c"], whole.t())
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in tensors.values())


def test_files_of_old_versions_of_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert unpickled(tmp_path / "old.bin").tensors["a"].tolist() == [1, 1]


@pytest.mark.parametrize("old", [False, True])
def test_what_a_file_asks_to_be_run_is_not_run(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "harm"
    torch.save(
        {"a": torch.ones(1), "b": Runs(os.system, f"touch {mark}"), "c": Runs(eval, f"open({str(mark)!r}, 'w')")},
        tmp_path / "bad.pt",
        _use_new_zipfile_serialization=not old,
    )
    with pytest.raises(ValueError, match=r"bad\.pt: its tensors cannot be read without running code of the file"):
        unpickled(tmp_path / "bad.pt")
    torch.save({"a": torch.ones(1), "c": Runs(eval, f"open({str(mark)!r}, 'w')")}, tmp_path / "bad.pt")
    assert list(unpickled(tmp_path / "bad.pt").tensors) == ["a"]
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no pickle", "not a torch checkpoint: the file begins with b'no pickle'"),
        (b"", "the file is empty; download it again"),
        (b"PK\x03\x04 and no end", "the file is truncated; download it again"),
        (b"\x80\x02e", "its tensors cannot be read .* \\(the file is damaged\\)"),
        (b"\x80\x02", "its tensors cannot be read .* \\(the file is damaged\\)"),
        ([torch.ones(1)], "holds no tensors with names"),
        ({1: torch.ones(1)}, "holds no tensors with names"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, content: Any, said: str) -> None:
    file = tmp_path / "model.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=rf"path={file}: .*{said}"):
        unpickled(file)


def test_the_command_overwrites_nothing_and_tells_all_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "a.safetensors").touch()
    assert main(["unpickle", f"path={tmp_path / 'a.pt'}", f"out={tmp_path / 'a.safetensors'}"]) == 2
    assert "a.safetensors\n    exists already" in capsys.readouterr().err
    assert main(["unpickle", f"path={tmp_path / 'none.pt'}", f"out={tmp_path / 'b.pt'}"]) == 2
    told = capsys.readouterr().err
    assert "none.pt\n    no such file" in told
    assert "must end in .safetensors" in told


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    assert main(["unpickle", f"path={tmp_path / 'a.pt'}", f"out={tmp_path / 'a.pt' / 'b.safetensors'}"]) == 4
    assert "cannot be written" in capsys.readouterr().err
