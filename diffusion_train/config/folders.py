"""Where the YAML files are, and which groups and options they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def conf_folder() -> Path:
    """Beside the package's modules when installed, at the repository's root when it runs from there."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder 'conf' in {package} or {package.parent}; install diffusion_train again")


def groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Group (as in `diffusion/schedule`) -> its options, from all folders together."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group != ".":
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}
