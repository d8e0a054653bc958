"""The versions in .ci/constraints.txt are ones that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_tested_version_of_each_dependency_is_allowed() -> None:
    """A constraints file holds exact versions alone, no addresses, paths or options."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text("utf-8").splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", line) for line in lines if not line.startswith("#")]
    assert all(pins)
    versions = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    requirements = [Requirement(line) for line in (*project["dependencies"], *extras)]
    for requirement in requirements:
        if requirement.name != project["name"]:
            version = versions[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), (requirement, version)
