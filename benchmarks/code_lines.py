"""`python -m benchmarks.code_lines [FOLDER]`: lines of code by room, without blank lines, comments and docstrings."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_SAYS_NOTHING = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Of a module.

    Args:
        source: its text.
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _SAYS_NOTHING:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def main(folder: Path) -> None:
    """Print the rooms, the largest first, and all."""
    rooms: Counter[str] = Counter()
    modules = sorted(folder.rglob("*.py"))
    for path in modules:
        rooms[path.relative_to(folder).parts[0]] += code_lines(path.read_text())
    for room, lines in rooms.most_common():
        print(f"{lines:6,} {room}")
    print(f"{rooms.total():6,} lines of code in {len(modules)} modules")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path("src/voxfit"))
