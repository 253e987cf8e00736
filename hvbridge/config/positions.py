"""Where keys and values stand in a TOML text.

Owns: the way from the path of a value to its line and column, which tomli does not tell.
Refuses: judging the text; it is TOML that tomli has accepted. Loaded only once there is a fault to show.
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
        """How many elements an array of tables has so far: where a header under it belongs."""
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
        """The position of the value at ``path``; of the nearest table around it when there is none."""
        return self._nearest(self._values, path)

    def of_key(self, path: Path) -> tuple[int, int]:
        """The position of the key at ``path``; of the nearest table around it when there is none."""
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
            self._note(path, node, node)
        path = (*path, names[-1])
        if node.type == "table_array_element":
            self._note(path, node, node)
            self._lengths[path] = self._lengths.get(path, 0) + 1
        path = self._last(*path)
        self._note(path, node, node)
        return path

    def _last(self, *path: str | int) -> Path:
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, base: Path, node: tree_sitter.Node) -> None:
        path = base
        value = _without_comments(node)[-1]
        *outer, last = _names(node)
        for name in outer:
            path = (*path, name)
            self._note(path, node, node)
        path = (*path, last)
        self._note(path, node, value)
        self._value(path, value)

    def _value(self, path: Path, node: tree_sitter.Node) -> None:
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(path, child)
        elif node.type == "array":
            for index, child in enumerate(_without_comments(node)):
                self._note((*path, index), child, child)
                self._value((*path, index), child)

    def _note(self, path: Path, key: tree_sitter.Node, value: tree_sitter.Node) -> None:
        """Keep the first position of a path: a dotted key or a header may come back to it."""
        self._keys.setdefault(path, key.start_byte)
        self._values.setdefault(path, value.start_byte)


def _without_comments(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [child for child in node.named_children if child.type != "comment"]


def _names(node: tree_sitter.Node) -> Iterator[str]:
    """The names in the key of a pair or of a header, without their quotes and escapes."""
    for child in node.named_children:
        if child.type == "dotted_key":
            yield from _names(child)
        elif child.type in _KEYS and child.text is not None:
            yield next(iter(tomli.loads(f"{child.text.decode()} = 0")))
