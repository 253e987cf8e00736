"""Finds the line and column of keys and values in a TOML text, which tomli does not report.

The text must be TOML that tomli has accepted. This module is loaded only if there is a fault to report.
"""

from collections.abc import Iterator

import tomli
import tree_sitter
import tree_sitter_toml

from hvbridge.config.errors import Path

_KEYS = ("bare_key", "quoted_key", "dotted_key")


class Positions:
    """The positions in one text, as (line, column), both counted from 1 and in characters."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._keys: dict[Path, int] = {}
        self._values: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}
        """The number of elements in each array of tables so far, to place the headers below it."""
        parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
        base: Path = ()
        for node in parser.parse(self._text).root_node.named_children:
            if node.type == "pair":
                self._pair((), node)
            elif node.type in ("table", "table_array_element"):
                base = self._header(node)
                for child in node.named_children:
                    if child.type == "pair":
                        self._pair(base, child)

    def of_value(self, path: Path) -> tuple[int, int]:
        """The position of the value at ``path``; if there is none, of the nearest enclosing table."""
        return self._nearest(self._values, path)

    def of_key(self, path: Path) -> tuple[int, int]:
        """The position of the key at ``path``; if there is none, of the nearest enclosing table."""
        return self._nearest(self._keys, path)

    def _nearest(self, offsets: dict[Path, int], path: Path) -> tuple[int, int]:
        while path and path not in offsets:
            path = path[:-1]
        offset = offsets.get(path, 0)
        line_start = self._text.rfind(b"\n", 0, offset) + 1
        return self._text.count(b"\n", 0, offset) + 1, len(self._text[line_start:offset].decode()) + 1

    def _header(self, node: tree_sitter.Node) -> Path:
        names = list(_names(node))
        path: Path = ()
        for name in names[:-1]:
            path = self._last(*path, name)
            self._record(path, node, node)
        path = (*path, names[-1])
        if node.type == "table_array_element":
            self._record(path, node, node)
            self._lengths[path] = self._lengths.get(path, 0) + 1
        path = self._last(*path)
        self._record(path, node, node)
        return path

    def _last(self, *path: str | int) -> Path:
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, base: Path, node: tree_sitter.Node) -> None:
        path = base
        value = _without_comments(node)[-1]
        *outer, last = _names(node)
        for name in outer:
            path = (*path, name)
            self._record(path, node, node)
        path = (*path, last)
        self._record(path, node, value)
        self._value(path, value)

    def _value(self, path: Path, node: tree_sitter.Node) -> None:
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(path, child)
        elif node.type == "array":
            for index, child in enumerate(_without_comments(node)):
                self._record((*path, index), child, child)
                self._value((*path, index), child)

    def _record(self, path: Path, key: tree_sitter.Node, value: tree_sitter.Node) -> None:
        """Record the first position of a path; dotted keys and headers may mention it again."""
        self._keys.setdefault(path, key.start_byte)
        self._values.setdefault(path, value.start_byte)


def _without_comments(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [child for child in node.named_children if child.type != "comment"]


def _names(node: tree_sitter.Node) -> Iterator[str]:
    """Yield the names in the key of a pair or header, unquoted and unescaped."""
    for child in node.named_children:
        if child.type == "dotted_key":
            yield from _names(child)
        elif child.type in _KEYS and child.text is not None:
            yield next(iter(tomli.loads(f"{child.text.decode()} = 0")))
