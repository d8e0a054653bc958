import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_state import WEIGHT, state

from diffusion_train.run_folder import by_step, step_name
from diffusion_train.training.checkpoint import checkpoint_file as ckpt
from diffusion_train.training.weights_header import FORMAT
from diffusion_train.utils.files import remove_strays

TESTS = Path(__file__).parents[1]
WHOLE = state()


def save(path: Path, content=WHOLE) -> Path:
    ckpt.AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def test_round_trip_leaves_no_other_file(tmp_path: Path) -> None:
    path = save(tmp_path / step_name(1))
    assert torch.equal(ckpt.load(path)["state_dict"]["network.w"], WEIGHT)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_found_and_the_one_before_is_used(tmp_path: Path, share: float) -> None:
    good, cut = save(tmp_path / step_name(1)), save(tmp_path / step_name(2))
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * share)])
    with pytest.warns(UserWarning, match="step_00000002"):
        assert ckpt.newest_whole(tmp_path) == good
    with pytest.raises(ValueError, match="step_00000002"):
        ckpt.load(cut)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / step_name(1))
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0, 103).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert "SHA-256" in ckpt.damage(path)


def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """Of every byte of the zip's directory, and of 400 others; fuzz/flipped_bits.py does it for a real checkpoint."""
    path = save(tmp_path / step_name(1))
    whole = path.read_bytes()
    directory = range(whole.index(b"PK\1\2"), len(whole))
    rng = random.Random(0)
    for position in [*directory, *(rng.randrange(len(whole)) for _ in range(400))]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if ckpt.damage(path) is None:
            assert torch.equal(ckpt.load(path)["state_dict"]["network.w"], WEIGHT)


def test_stock_torch_reads_it(tmp_path: Path) -> None:
    loaded = torch.load(save(tmp_path / "a.ckpt"), weights_only=True)
    assert torch.equal(loaded["state_dict"]["network.w"], WEIGHT)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_bomb_is_refused_without_being_unpacked(tmp_path: Path, compression: int) -> None:
    path = tmp_path / step_name(1)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", bytes(50 << 20))
    assert "zip bomb" in ckpt.damage(path)


def test_a_checkpoint_without_a_hash_is_tested_record_by_record(tmp_path: Path) -> None:
    path = tmp_path / step_name(1)
    torch.save(WHOLE, path)
    assert ckpt.damage(path) is None
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0, 103).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert "checksum" in ckpt.damage(path)


def test_a_file_that_cannot_be_read_is_damaged_whatever_is_raised(tmp_path: Path, monkeypatch) -> None:
    """Its hash may be right, as of a file that is no checkpoint, or memory may not suffice."""
    good, other = save(tmp_path / step_name(1)), tmp_path / step_name(2)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("anything", b"else")
    with pytest.warns(UserWarning, match=r"step_00000002.ckpt: cannot be read .*; using the checkpoint before it"):
        assert ckpt.newest_whole(tmp_path) == good
    other.unlink()
    other.mkdir()
    with pytest.warns(UserWarning, match="step_00000002.ckpt: damaged or incomplete"):
        assert ckpt.newest_whole(tmp_path) == good
    other.rmdir()
    save(other)
    read = torch.load
    broken = lambda path, **rest: read(path, **rest) if path == good else (_ for _ in ()).throw(RecursionError("deep"))
    monkeypatch.setattr(torch, "load", broken)
    with pytest.warns(UserWarning, match="step_00000002.ckpt: cannot be read .RecursionError: deep"):
        assert ckpt.newest_whole(tmp_path) == good


def test_checkpoints_are_ordered_by_their_step(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 5):
        (tmp_path / step_name(step)).touch()
    (tmp_path / "step_of_mine.ckpt").touch()
    assert [path.stem for path in by_step(tmp_path)] == ["step_100000000", "step_99999999", "step_00000005"]


def test_all_damaged_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / step_name(1)).write_bytes(b"")
    with pytest.warns(UserWarning, match="step_00000001"), pytest.raises(ValueError, match="every checkpoint"):
        ckpt.newest_whole(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert ckpt.newest_whole(tmp_path / "absent") is None


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"state_dict": {"w": [p]}}], ids=["plain", "nested"])
def test_a_pickle_payload_is_refused_and_does_not_run(tmp_path: Path, wrap) -> None:
    path, canary = tmp_path / "step_00000001.ckpt", tmp_path / "canary"
    torch.save(wrap(Payload(canary)), path)
    with pytest.raises(ValueError, match=r"step_00000001\.ckpt: refused"):
        ckpt.load(path)
    assert not canary.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    path, canary = tmp_path / "model.ckpt", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(ValueError, match="damaged or incomplete"):
        ckpt.load(path)
    assert not canary.exists()


def test_a_newer_format_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="newer"):
        ckpt.load(save(tmp_path / "a.ckpt", {"diffusion_train": {"format": FORMAT + 1}}))
    with pytest.raises(ValueError, match="not a checkpoint of diffusion_train"):
        ckpt.load(save(tmp_path / "b.ckpt", {"state_dict": {}}))


def test_the_file_and_the_folder_are_on_disk_before_the_name_is_there(tmp_path: Path, monkeypatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    path = save(tmp_path / "a.ckpt")
    assert calls[0].startswith(str(tmp_path / ".tmp-"))
    assert calls[1:] == ["replace", str(path.parent)]


SAVER = """
import sys, torch
from pathlib import Path
from checkpoint_state import state
from diffusion_train.training.checkpoint.checkpoint_file import AtomicCheckpointIO
folder = Path(sys.argv[1])
print("ready", flush=True)
for step in range(1, 10000):
    content = state(step, torch.full((1_000_000,), float(step)))
    AtomicCheckpointIO().save_checkpoint(content, folder / step_name(step))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 0.11, 0.23, 0.37])
def test_a_kill_while_saving_leaves_only_whole_checkpoints(tmp_path: Path, after: float) -> None:
    paths = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in by_step(tmp_path):
        assert ckpt.load(path)["state_dict"]["network.w"].unique().numel() == 1
    remove_strays(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".ckpt"]
