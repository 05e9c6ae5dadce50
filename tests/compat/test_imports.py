"""Private names of other packages are imported in `layerprobe.compat` alone; ruff's SLF sees to attributes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def private_imports(file: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in imported if any(re.match("_(?!_)", part) for part in name.split("."))]


def test_private_names_are_imported_in_one_place() -> None:
    found = {
        file.relative_to(ROOT): names
        for folder in ("src", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        if (names := private_imports(file))
    }
    compat = Path("src/layerprobe/compat")
    assert set(found) == {compat / "hydra.py", compat / "lightning.py"}, found
