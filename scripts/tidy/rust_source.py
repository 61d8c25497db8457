"""What the checks need to know of Rust source: code without comments and text, literals, module paths, imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# A comment, a raw string, a string, a character: whatever comes first hides the others.
TOKEN = re.compile(
    r"""(?P<line>//[^\n]*)|(?P<block>/\*.*?\*/)|b?r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)"""
    r"""|b?"(?P<string>(?:\\.|[^"\\])*)"|b?'(?:\\.[^']*|[^'\\\n])'""",
    re.DOTALL,
)
TEST_ITEM = re.compile(
    r"^[ \t]*#\[cfg\(test\)\]\n(?:[ \t]*#\[[^\n]*\n)*[ \t]*(?:pub(?:\([^)]*\))? )?(?:mod|fn|use|impl)\b", re.MULTILINE
)
USE = re.compile(r"\buse\s+(?P<tree>(?:crate|super|self)\b[^;]*);")
PATH = re.compile(r"(?<![\w:$])(?P<path>(?:crate|super|self)(?:::\w+)+)")


def without_text(source: str) -> str:
    """The code alone: comments go, literals become empty. Lines stay where they are."""

    def blank(token: re.Match[str]) -> str:
        lines = "\n" * token.group().count("\n")
        return lines if token.group().startswith("/") else f'""{lines}'

    return TOKEN.sub(blank, source)


def literals(source: str) -> Iterator[tuple[int, str]]:
    """Every string literal with its line, comments left out."""
    for token in TOKEN.finditer(source):
        text = token.group("string") if token.group("string") is not None else token.group("raw")
        if text is not None:
            yield source.count("\n", 0, token.start()) + 1, text


def production_code(source: str) -> str:
    """The code alone, less what is compiled for tests only."""
    code = without_text(source)
    while found := TEST_ITEM.search(code):
        end = end_of_item(code, found.end())
        code = code[: found.start()] + code[end:]
    return code


def end_of_item(code: str, start: int) -> int:
    depth = 0
    for at in range(start, len(code)):
        if code[at] == "{":
            depth += 1
        elif code[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        elif code[at] == ";" and depth == 0:
            return at + 1
    return len(code)


def module_of(path: Path, source_folder: Path) -> tuple[str, ...]:
    """`src/http/users.rs` is the module (http, users); the root is ()."""
    parts = path.relative_to(source_folder).with_suffix("").parts
    return () if parts in {("lib",), ("main",)} else parts


def imports(code: str, module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The paths inside the crate that code of the module names, absolute: of modules and of items."""
    found = set()
    for use in USE.finditer(code):
        found.update(absolute(path, module) for path in leaves_of(use.group("tree")))
    for path in PATH.finditer(USE.sub("", code)):
        found.add(absolute(path.group("path").split("::"), module))
    return found


def absolute(path: list[str], module: tuple[str, ...]) -> tuple[str, ...]:
    at = () if path[0] == "crate" else module
    for index, part in enumerate(path):
        if part == "super":
            at = at[:-1]
        elif part not in {"crate", "self"}:
            return at + tuple(path[index:])
    return at


def leaves_of(tree: str) -> Iterator[list[str]]:
    """`crate::a::{b, c::d as e}` is crate::a::b and crate::a::c::d."""
    tree = re.sub(r"\s+as\s+\w+", "", tree)
    stack: list[list[str]] = [[]]
    current: list[str] = []
    for token in re.findall(r"\w+|\*|::|[{},]", tree):
        if token == "{":
            stack.append(stack[-1] + current)
            current = []
        elif token in {",", "}"}:
            if current:
                yield stack[-1] + current
            current = []
            if token == "}":
                stack.pop()
        elif token != "::":
            current.append(token)
    if current:
        yield stack[-1] + current
