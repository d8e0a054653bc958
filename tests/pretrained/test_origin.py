"""What `pretrained` may be, and what is said where it is something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffusion_train.pretrained import diffusers_folder, hub, origin
from diffusion_train.pretrained.single_file import Model, write_layout


@pytest.fixture
def folder(tmp_path):
    """Stable Diffusion 1 with empty files for its weights."""
    folder = tmp_path / "sd"
    write_layout(Model("sd1", "epsilon", False), folder)
    for name in diffusers_folder.WEIGHTS["sd"]:
        (folder / name / "model.safetensors").touch()
    (folder / "tokenizer").mkdir()
    return folder


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_each_kind_is_told_apart(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    assert origin.kind(str(folder)) == "folder"
    assert origin.kind(str(run)) == "run"
    assert origin.kind("owner/name") == origin.kind("owner/name@fp16") == "hub"
    header = json.dumps({"__metadata__": {"diffusion_train": "{}"}}).encode()
    (run / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert origin.kind(str(run / "weights.safetensors")) == "run"


def test_a_whole_folder_is_taken_as_it_is(folder):
    assert origin.folder(str(folder)) == origin.folder(str(folder), weights=False) == folder
    assert sorted(diffusers_folder.weight_files(folder, "it")) == [
        f"{name}/model.safetensors" for name in ("text_encoder", "unet", "vae")
    ]


@pytest.mark.parametrize("value", ["/no/such/folder", "./none", "none", "model.safetensors", "a/b/c"])
def test_nothing_there(value):
    with pytest.raises(ValueError, match=rf"pretrained={value}: no such folder or file.*owner/name@revision"):
        origin.kind(value)


def test_addresses_and_pickles_are_not_read(tmp_path):
    with pytest.raises(ValueError, match=r"https://x/y\.safetensors: URLs are not supported; download"):
        origin.kind("https://x/y.safetensors")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"model\.ckpt: a pickle can run code.*\.safetensors"):
        origin.kind(str(tmp_path / "model.ckpt"))


def test_a_folder_without_an_index_names_the_one_inside(folder, tmp_path):
    with pytest.raises(ValueError, match=rf"holds no model_index\.json; did you mean {folder}\?"):
        origin.folder(str(tmp_path), weights=False)
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"holds no model_index\.json; give a folder in diffusers' layout"):
        origin.folder(str(folder), weights=False)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model.bin", r"unet/ holds weights only as a pickle \(model\.bin\)"),
        (
            "model.non_ema.safetensors",
            r"only the variant model\.non_ema\.safetensors; rename that file to model\.safetensors",
        ),
        ("notes.txt", r"unet/ holds no \.safetensors file; copy or download"),
    ],
)
def test_weights_that_cannot_be_used(folder, file, said):
    (folder / "unet" / "model.safetensors").rename(folder / "unet" / file)
    with pytest.raises(ValueError, match=said):
        origin.folder(str(folder), weights=False)


def test_missing_pieces_are_listed(folder):
    (folder / "vae" / "config.json").unlink()
    (folder / "tokenizer").rmdir()
    with pytest.raises(ValueError, match=r"vae/config\.json, tokenizer/ is missing"):
        origin.folder(str(folder), weights=False)


def test_another_pipeline_is_not_supported_yet(folder):
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="FluxPipeline is not supported yet; give one of StableDiffusion"):
        origin.folder(str(folder), weights=False)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_broken_description_is_no_traceback(folder, text):
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=r"pretrained=.*model_index\.json"):
        origin.folder(str(folder), weights=False)


@pytest.mark.usefixtures("offline")
def test_a_hub_that_cannot_be_reached_says_how_to_download():
    with pytest.raises(ValueError, match=r"(?s)a/b@v2: .*hf download a/b --revision v2 --local-dir <folder>"):
        origin.folder("a/b@v2")


@pytest.mark.usefixtures("offline")
def test_a_model_of_the_hub_is_read_from_its_cache_by_revision(folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("owner/name", "owner/name@main", f"owner/name@{commit}"):
        assert origin.folder(name) == cached / "snapshots" / commit
        assert hub.commit(origin.folder(name)) == commit
    with pytest.raises(ValueError, match="owner/name@other"):
        origin.folder("owner/name@other")


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for what it does not give."""

    def do_GET(self):
        code = "RepoNotFound" if "/models/no/" in self.path else "RevisionNotFound"
        self.send_response(401 if code == "RepoNotFound" else 404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("some/model@v9", "has no revision v9; leave the revision out"),
        ("no/model", "neither a local folder nor a model of the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_said(value, said, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        code = f"from diffusion_train.pretrained import origin; origin.folder({value!r}, weights=False)"
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    finally:
        server.shutdown()
        server.server_close()
    assert f"ValueError: pretrained={value}: " in done.stderr
    assert said in done.stderr


def test_describing_a_model_needs_no_torch():
    code = "import sys, diffusion_train.pretrained.parts, diffusion_train.pretrained.origin; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"'torch'", "'diffusers'", "'transformers'", "'huggingface_hub'"} & set(
        done.stdout.strip("[]\n").split(", ")
    )
