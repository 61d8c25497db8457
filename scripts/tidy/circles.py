"""Import circles: modules of one level that, taken with all below them, import each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from . import rust_source

Module = tuple[str, ...]


def circles(source_folder: Path) -> Iterator[list[Module]]:
    """Each group of sibling modules in which every one reaches every other by imports.

    A module and what is below it belong together: imports between the two are no circle.
    """
    code = {
        rust_source.module_of(path, source_folder): rust_source.production_code(path.read_text())
        for path in source_folder.rglob("*.rs")
        if "generated" not in path.parts and path.stem != "tests" and "bin" not in path.relative_to(source_folder).parts
    }
    imports: dict[Module, set[Module]] = defaultdict(set)
    for module, text in code.items():
        for named in rust_source.imports(text, module):
            siblings = first_difference(module, module_named(named, code))
            if siblings:
                imports[siblings[0]].add(siblings[1])
    yield from (sorted(group) for group in groups(imports) if len(group) > 1)


def module_named(path: Module, modules: dict[Module, str]) -> Module:
    """The module of a path whose last parts may be items."""
    while path and path not in modules:
        path = path[:-1]
    return path


def first_difference(one: Module, other: Module) -> tuple[Module, Module] | None:
    """The siblings above two modules, or nothing if one is above the other."""
    for depth, (left, right) in enumerate(zip(one, other, strict=False), start=1):
        if left != right:
            return one[:depth], other[:depth]
    return None


def groups(edges: dict[Module, set[Module]]) -> Iterator[set[Module]]:
    """Strongly connected modules."""
    reachable = {start: reach(start, edges) for start in list(edges)}
    seen: set[Module] = set()
    for start in sorted(reachable):
        if start not in seen:
            group = {other for other in reachable[start] if start in reachable.get(other, set())} | {start}
            seen |= group
            yield group


def reach(start: Module, edges: dict[Module, set[Module]]) -> set[Module]:
    found: set[Module] = set()
    ahead = [start]
    while ahead:
        for module in edges.get(ahead.pop(), ()):
            if module not in found:
                found.add(module)
                ahead.append(module)
    return found
