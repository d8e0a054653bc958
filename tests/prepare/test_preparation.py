from __future__ import annotations

import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from diffusion_train.prepare.ledger import FOLDER, Ledger
from diffusion_train.prepare.preparation import LEFT_OUT, Preparation, TooManyFaults
from diffusion_train.prepare.shard_sample import Rules
from diffusion_train.prepare.source.base import Entry, LeftOut, Record
from diffusion_train.prepare.source.folder import Folder


class Given:
    """Entries a, b, ... of noise; some are something else."""

    def __init__(self, make_png, count=30, **others):
        self.list = [
            Entry(f"{i:03d}", others.get(f"at{i}") or partial(Record, make_png(i), f"caption {i}", {"n": i}))
            for i in range(count)
        ]

    def total(self):
        return len(self.list)

    def entries(self, skip=0):
        return iter(self.list)


def interrupt():
    raise KeyboardInterrupt


def write(out: Path, source, settings=None, finish=False, **changes) -> Ledger:
    ledger = Ledger(out, settings or {"a": 1})
    preparation = Preparation(Rules(), **{"samples_per_shard": 4, "num_workers": 0, "max_bad_share": 1} | changes)
    preparation.write(source, ledger)
    if finish:
        ledger.finish()
    return ledger


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix in (".tar", ".jsonl")}


def read_back(out: Path) -> dict[str, tuple[bytes, bytes, dict]]:
    paths = [str(path) for path in sorted(out.glob("*.tar"))]
    samples = webdataset.WebDataset(paths, shardshuffle=False)
    return {s["__key__"]: (s["png"], s["txt"], json.loads(s["json"])) for s in samples}


def test_every_sample_goes_into_shards_of_the_size_asked_for(tmp_path, make_png):
    fault = LeftOut("undecodable", "why")
    ledger = write(tmp_path / "out", Given(make_png, 10, at1=fault, at9=fault))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["images-000000.tar", "images-000001.tar"]
    assert [done.num_samples for done in ledger.parts] == [4, 4, 0]
    assert read_back(tmp_path / "out") == {
        f"{i:03d}": (make_png(i), f"caption {i}".encode(), {"n": i}) for i in range(10) if i not in (1, 9)
    }
    lines = [json.loads(line) for line in (tmp_path / "out" / LEFT_OUT).read_text().splitlines()]
    assert lines == [{"name": n, "reason": "undecodable", "detail": "why", "count": 1} for n in ("001", "009")]


def test_a_shard_is_full_by_its_bytes_too(tmp_path):
    source = Given(lambda i: os.urandom(700_000), 5)
    with pytest.raises(TooManyFaults):
        write(tmp_path / "a", source, max_bad_share=0)

    def picture(i):
        out = io.BytesIO()
        Image.frombytes("RGB", (500, 470), random.Random(i).randbytes(500 * 470 * 3)).save(out, "PNG")
        return out.getvalue()

    ledger = write(tmp_path / "b", Given(picture, 5), samples_per_shard=100, mib_per_shard=1)
    assert [done.num_samples for done in ledger.parts] == [2, 2, 1, 0]


def test_an_index_is_kept_beside_every_shard(tmp_path, make_png):
    write(tmp_path / "out", Given(make_png, 9))
    names = {path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(".index.npz")}
    assert names == {f"images-00000{n}.tar.index.npz" for n in range(3)}


def test_other_processes_give_the_same_bytes(tmp_path, make_png):
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(40):
        (root / f"{i}.png").write_bytes(make_png(i))
        (root / f"{i}.txt").write_text(f"caption {i}" * (i % 7 > 0))
    for workers in (0, 2):
        write(tmp_path / str(workers), Folder(str(root)), num_workers=workers)
    assert len(bytes_of(tmp_path / "0")) == 10
    assert bytes_of(tmp_path / "0") == bytes_of(tmp_path / "2")


def test_wherever_it_was_stopped_the_next_start_ends_with_the_same_bytes(tmp_path, make_png):
    """Nothing whole is done again."""
    others = {"at3": LeftOut("unreadable"), "at11": LeftOut("not-a-sample"), "at29": LeftOut("unreadable")}
    write(tmp_path / "whole", Given(make_png, **others))
    whole = bytes_of(tmp_path / "whole")
    for stop in range(30):
        out = tmp_path / str(stop)
        if f"at{stop}" in others:
            continue
        with pytest.raises(KeyboardInterrupt):
            write(out, Given(make_png, **others | {f"at{stop}": interrupt}))
        before = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
        write(out, Given(make_png, **others))
        assert bytes_of(out) == whole, stop
        assert before.items() <= {path.name: path.stat().st_ino for path in out.glob("*.tar")}.items(), stop
        assert not list(out.glob(".tmp-*")), stop


def test_what_was_lost_of_a_shard_is_made_again(tmp_path, make_png):
    out = tmp_path / "out"
    write(out, Given(make_png))
    whole = bytes_of(out)
    (out / "images-000002.tar").write_bytes(b"torn")
    (out / "images-000005.tar").unlink()
    write(out, Given(make_png))
    assert bytes_of(out) == whole


def test_once_finished_nothing_is_touched(tmp_path, make_png):
    out = tmp_path / "out"
    write(out, Given(make_png), finish=True)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix == ".tar"}
    assert write(out, Given(make_png)).finished
    assert times == {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix == ".tar"}
    assert sorted(path.name for path in (out / FOLDER).iterdir()) == ["plan.json", "states.bin"]


@pytest.mark.parametrize("finish", [True, False])
def test_a_source_that_changed_meanwhile_is_refused(tmp_path, make_png, finish):
    write(tmp_path / "out", Given(make_png), finish=finish)
    other = Given(make_png)
    other.list.insert(0, other.list.pop())
    if not finish:
        (tmp_path / "out" / "images-000005.tar").unlink()
    with pytest.raises(ValueError, match="has changed since"):
        write(tmp_path / "out", other)
    if finish:
        with pytest.raises(ValueError, match="has changed since"):
            write(tmp_path / "out", Given(make_png, 31))


def make_folder(root: Path, make_png, count=10) -> Folder:
    root.mkdir()
    for i in range(count):
        (root / f"{i}.png").write_bytes(make_png(i))
        (root / f"{i}.txt").write_text(f"caption {i}")
    return Folder(str(root))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("finish", [True, False])
def test_a_file_written_again_under_its_name_is_told(tmp_path, make_png, finish, num_workers):
    photos, out = tmp_path / "photos", tmp_path / "out"
    source = make_folder(photos, make_png)
    write(out, source, finish=finish, num_workers=num_workers)
    if not finish:
        (out / "images-000002.tar").unlink()
    before = bytes_of(out)
    (photos / "7.txt").write_text("another caption")
    with pytest.raises(ValueError, match=r"has changed since out=.* was started: .*, first at 7\.png; "):
        write(out, source)
    assert bytes_of(out) == before


def test_what_was_not_read_yet_may_change(tmp_path, make_png):
    photos, out = tmp_path / "photos", tmp_path / "out"
    source = make_folder(photos, make_png)
    write(out, source)
    (out / "images-000002.tar").unlink()
    (photos / "9.txt").write_text("another caption")
    write(out, source)
    assert read_back(out)["9"][1] == b"another caption"


def test_a_file_that_changes_while_it_is_read_is_told_the_next_time(tmp_path, make_png):
    """Its state is that from before."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_folder(photos, make_png)

    class Slow(Folder):
        def entries(self, skip=0):
            for entry in Folder.entries(self, skip):
                yield entry._replace(
                    read=partial(_read_late, entry.read, photos / "3.txt") if entry.name == "3.png" else entry.read
                )

    write(out, Slow(str(photos)), finish=True)
    assert read_back(out)["3"][1] == b"a late caption"
    with pytest.raises(ValueError, match=r"first at 3\.png"):
        write(out, Folder(str(photos)))


def test_a_table_that_changes_after_it_was_read_is_told_the_next_time(tmp_path, make_png):
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_folder(photos, make_png)
    (photos / "captions.csv").write_text("image,caption\n" + "".join(f"{i}.png,row {i}\n" for i in range(10)))
    source = Folder(str(photos), captions=["table"])
    (photos / "captions.csv").write_text("image,caption\n" + "".join(f"{i}.png,a new row {i}\n" for i in range(10)))
    write(out, source, finish=True)
    assert read_back(out)["3"][1] == b"row 3"
    with pytest.raises(ValueError, match=r"first at 0\.png"):
        write(out, Folder(str(photos), captions=["table"]))


@pytest.mark.parametrize("finish", [True, False])
def test_a_storage_that_fails_says_nothing_of_what_changed(tmp_path, make_png, monkeypatch, finish):
    photos, out = tmp_path / "photos", tmp_path / "out"
    source = make_folder(photos, make_png)
    write(out, source, finish=finish)
    if not finish:
        (out / "images-000002.tar").unlink()
    stat = os.stat

    def stale(path, *args, **kwargs):
        if str(path).endswith("5.txt"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return stat(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stale)
        with pytest.raises(OSError, match="Stale"):
            write(out, source)
    write(out, source)


def _read_late(read, caption: Path):
    caption.write_text("a late caption")
    return read()


@pytest.mark.parametrize("finish", [True, False])
def test_a_source_that_has_ended_early_says_after_how_many(tmp_path, make_png, finish):
    write(tmp_path / "out", Given(make_png), finish=finish)
    if not finish:
        (tmp_path / "out" / "images-000005.tar").unlink()
    with pytest.raises(ValueError, match=r"its end, after 3 of \d+"):
        write(tmp_path / "out", Given(make_png, 3))


@pytest.mark.parametrize("finish", [True, False])
def test_notes_of_an_older_form_are_not_taken_for_ours(tmp_path, make_png, finish):
    out = tmp_path / "out"
    write(out, Given(make_png, 10), finish=finish)
    plan = json.loads((out / FOLDER / "plan.json").read_text())
    del plan["settings"]["format"]
    (out / FOLDER / "plan.json").write_text(json.dumps(plan))
    before = bytes_of(out)
    with pytest.raises(ValueError, match="made by another version of prepare; delete it"):
        write(out, Given(make_png, 10))
    assert bytes_of(out) == before


def test_other_settings_are_refused_by_name(tmp_path, make_png):
    write(tmp_path / "out", Given(make_png), settings={"prepare.max_side": 512, "same": 1})
    with pytest.raises(ValueError, match=r"prepare\.max_side: 512 before, 1024 now"):
        write(tmp_path / "out", Given(make_png), settings={"prepare.max_side": 1024, "same": 1})


def test_until_a_shard_is_whole_settings_may_change(tmp_path, make_png):
    out = tmp_path / "out"
    with pytest.raises(TooManyFaults):
        write(out, Given(make_png, at0=LeftOut("no-caption")), {"a": 1}, max_bad_share=0, samples_per_shard=100)
    write(out, Given(make_png, 10), settings={"a": 2})
    (out / "images-000000.tar").unlink()
    ledger = write(out, Given(make_png, 4), settings={"a": 3})
    assert [done.shard for done in ledger.parts] == ["images-000000.tar", None]
    assert {path.name for path in out.glob("*.tar*")} == {"images-000000.tar", "images-000000.tar.index.npz"}


def test_a_folder_with_other_things_is_left_alone(tmp_path, make_png):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"contains other files \(holiday.jpg"):
        write(tmp_path, Given(make_png))
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["holiday.jpg"]


def test_too_many_faults_stop_it_and_are_told_by_reason(tmp_path, make_png):
    faults = {f"at{i}": LeftOut("no-caption") for i in range(5)} | {"at5": LeftOut("undecodable", "a cut JPEG")}
    wanted = {f"at{i}": LeftOut("licence") for i in range(6, 20)}
    source = Given(make_png, **faults, **wanted)
    with pytest.raises(TooManyFaults) as caught:
        write(tmp_path / "out", source, max_bad_share=0.19, samples_per_shard=100)
    for words in (
        "6 of the first 30 entries are faulty",
        "max_bad_share=0.19",
        "5 no-caption: ",
        "1 undecodable: ",
        "'005' (a cut JPEG)",
    ):
        assert words in str(caught.value)
    assert len((tmp_path / "out" / LEFT_OUT).read_text().splitlines()) == 20
    ledger = write(tmp_path / "out", source, max_bad_share=0.2)
    assert sum(done.num_samples for done in ledger.parts) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_shard": 0, "num_workers": -1}, "samples_per_shard=0.*\n.*num_workers=-1"),
        ({"max_bad_share": 1.5}, "0 to 1"),
        ({"name": "a/b"}, "without dots"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Preparation(Rules(), **settings)


SCRIPT = """
import sys
from pathlib import Path
from diffusion_train.prepare.ledger import Ledger
from diffusion_train.prepare.preparation import Preparation
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.prepare.shard_sample import Rules
if __name__ == "__main__":
    ledger = Ledger(Path(sys.argv[2]), {})
    Preparation(Rules(), samples_per_shard=20, num_workers=2).write(Folder(sys.argv[1]), ledger)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes_and_leaves_no_process(tmp_path, make_png):
    (tmp_path / "prepare.py").write_text(SCRIPT)
    (tmp_path / "photos").mkdir()
    for i in range(600):
        (tmp_path / "photos" / f"{i}.png").write_bytes(make_png(i, 64, 64))
        (tmp_path / "photos" / f"{i}.txt").write_text(f"caption {i}")

    def start(out):
        command = [sys.executable, str(tmp_path / "prepare.py"), str(tmp_path / "photos"), str(tmp_path / out)]
        return subprocess.Popen(command, env={**os.environ, "MARK": str(tmp_path)}, stderr=subprocess.DEVNULL)

    assert start("whole").wait(timeout=120) == 0
    rng = random.Random(0)
    kills = 0
    while (process := start("killed")) and kills < 8:
        time.sleep(0.3)
        first = {path.name for path in (tmp_path / "killed").glob("*.tar")}
        while process.poll() is None and {path.name for path in (tmp_path / "killed").glob("*.tar")} == first:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.wait(timeout=120) == 0
    assert kills >= 3
    assert len(bytes_of(tmp_path / "whole")) == 30
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    deadline = time.monotonic() + 20
    while running(f"MARK={tmp_path}") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running(f"MARK={tmp_path}") == []


def running(variable: str) -> list[int]:
    """Processes that have this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if variable.encode() in environment:
            found.append(int(folder.name))
    return found
