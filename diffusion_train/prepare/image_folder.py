"""A folder of images as shards in the cache folder, which are prepared on first use."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion_train.prepare.image.formats import READABLE
from diffusion_train.prepare.ledger import Ledger
from diffusion_train.prepare.preparation import Preparation, reasons
from diffusion_train.prepare.shard_sample import Rules
from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.utils.files import cache_folder
from diffusion_train.utils.lock import wait_for_lock
from diffusion_train.utils.process.workers import available
from diffusion_train.utils.text import argument

_FORMAT = 3  # increase it when the same images would give other samples
_FEW = 64  # with fewer entries, starting other processes takes longer than the work


@dataclass(frozen=True)
class ImageFolder:
    """The images below `path`, with the captions beside them. Iterating yields the paths of shards of them.

    Images without a caption get an empty one. The shards are kept in the cache folder and made again if the name, size
    or time of a file changes.
    """

    path: str

    def __post_init__(self) -> None:
        if not self._root.is_dir():
            problem = "is a file; for tars use data.shards" if self._root.is_file() else "no such folder"
            raise ValueError(f"data.folder={self.path}: {problem}")

    def __iter__(self) -> Iterator[str]:
        return iter([str(path) for path in self._shards()])

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    @property
    def _command(self) -> str:
        return f"diffusion-train prepare source=folder {argument('path', self.path)} out=<folder>"

    def _shards(self) -> list[Path]:
        source = Folder(str(self._root))
        out = cache_folder() / "shards" / f"folder-{self._key(source)}"
        with wait_for_lock(out.with_suffix(".lock")):
            ledger = Ledger(out, {"source": "folder"})
            if not ledger.finished:
                self._prepare(source, ledger)
        return sorted(out.glob("*.tar"))

    def _key(self, source: Folder) -> str:
        digest = hashlib.sha256(repr((_FORMAT, str(self._root.resolve()))).encode())
        num_images = 0
        for entry in source.entries():
            num_images += not isinstance(entry.read, LeftOut)
            digest.update(entry.state())
        if not num_images:
            raise ValueError(f"data.folder={self.path}: contains no image with a name in .{', .'.join(READABLE)}")
        return digest.hexdigest()[:32]

    def _prepare(self, source: Folder, ledger: Ledger) -> None:
        print(f"data.folder={self.path}: preparing its images once, in {ledger.out}", file=sys.stderr)
        workers = 0 if source.total() < _FEW else available()
        Preparation(Rules(missing_caption="empty"), max_bad_share=1.0, num_workers=workers).write(source, ledger)
        captions = [measures.caption for details in ledger.details() for measures in details.measures]
        print(f"    {len(captions):,} images, {sum(map(bool, captions)):,} of them with a caption", file=sys.stderr)
        if left_out := reasons(ledger.details()):
            print(f"    left out:\n{left_out}", file=sys.stderr)
            if re.search(r"\b(source|prepare)\.", left_out):
                print(f"    source.* and prepare.* are settings of: {self._command}", file=sys.stderr)
        if repeats := source.repeats():
            print(repeats, file=sys.stderr)
        ledger.finish()
