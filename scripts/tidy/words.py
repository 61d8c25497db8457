"""Words that hide who or what is meant: never in an identifier, never in a message."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from . import rust_source

BANNED = re.compile(r"(?<![a-z])(whoever|somebody|nobody|everybody|anybody)(?![a-z])", re.IGNORECASE)
# The account of that name, which every Unix has.
ACCOUNT = re.compile(r"""^(nobody|nobody:nogroup)$""")


def banned_words(path: Path) -> Iterator[tuple[int, str]]:
    """Line and word of each, comments and prose left out."""
    source = path.read_text(errors="replace")
    if not BANNED.search(source):
        return
    if path.suffix == ".rs":
        yield from in_rust(source)
    elif path.suffix == ".py" or source.startswith("#!/usr/bin/env python3"):
        yield from in_python(source)
    elif path.suffix in {".sh", ".proto", ".sql", ".toml"} or source.startswith("#!"):
        yield from in_lines(source)


def in_rust(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(rust_source.without_text(source).splitlines(), start=1):
        for name in re.findall(r"\w+", line):
            if found := BANNED.search(spaced(name)):
                yield number, found.group()
    for number, text in rust_source.literals(source):
        if not ACCOUNT.match(text) and (found := BANNED.search(text)):
            yield number, found.group()


def in_python(source: str) -> Iterator[tuple[int, str]]:
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # A string that is a statement of its own is a docstring.
        is_docstring = token.type == tokenize.STRING and previous in {tokenize.NEWLINE, tokenize.INDENT, tokenize.NL}
        if token.type not in {tokenize.COMMENT, tokenize.NL} and not is_docstring:
            found = BANNED.search(spaced(token.string) if token.type == tokenize.NAME else token.string)
            if found:
                yield token.start[0], found.group()
        previous = token.type


def in_lines(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), start=1):
        if found := BANNED.search(re.sub(r"(^|\s)(#|//|--).*", "", line)):
            yield number, found.group()


def spaced(name: str) -> str:
    """`is_nobody` and `IsNobody` as words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name)
