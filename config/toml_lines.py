"""Where things stand in a TOML text: the line of every key, table and array element."""

import contextlib
import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias

TomlPath: TypeAlias = tuple[str | int, ...]

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")


class _Unscannable(Exception):
    """The text stops being TOML here."""


def scan_lines(text: str) -> "LineScanner":
    """The lines of a text; of its good part, when it stops being TOML somewhere."""
    scanner = LineScanner(text)
    # What was found before a bad place is still right.
    with contextlib.suppress(_Unscannable, RecursionError, tomllib.TOMLDecodeError):
        scanner.run()
    return scanner


class LineScanner:
    """Finds the line of each key. The values themselves come from tomllib."""

    def __init__(self, text: str) -> None:
        self.lines: dict[TomlPath, int] = {}
        self.doubled: list[tuple[TomlPath, int, int]] = []
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tables: dict[TomlPath, int] = {}  # the length of each array of tables
        self._defined: dict[TomlPath, int] = {}

    def run(self) -> None:
        """Scan the whole text. Raises _Unscannable where it is not TOML."""
        table: TomlPath = ()
        while self._skip(newlines=True):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _skip(self, *, newlines: bool) -> bool:
        """Skip blanks and comments (and line ends); whether any text is left."""
        blanks = " \t\r\n" if newlines else " \t"
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in blanks:
                self._at += 1
            elif char == "#" and newlines:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return True
        return False

    def _take(self, token: str) -> bool:
        if self._text.startswith(token, self._at):
            self._at += len(token)
            return True
        return False

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise _Unscannable(token)

    def _note(self, path: TomlPath, line: int, *, defines: bool) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)
        if defines and path in self._defined:
            self.doubled.append((path, self._defined[path], line))
        elif defines:
            self._defined[path] = line

    def _header(self) -> TomlPath:
        line = self._line()
        many = self._take("[[")
        if not many:
            self._need("[")
        key = self._key()
        self._need("]]" if many else "]")
        path: TomlPath = ()
        for part in key[:-1]:
            path = self._last_of((*path, part))
        path = (*path, key[-1])
        if many:
            index = self._tables.get(path, 0)
            self._tables[path] = index + 1
            path = (*path, index)
        self._note(path, line, defines=not many)
        return path

    def _last_of(self, path: TomlPath) -> TomlPath:
        """The newest element if `path` is an array of tables, else the path."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _pair(self, table: TomlPath) -> None:
        line = self._line()
        path = (*table, *self._key())
        self._need("=")
        self._note(path, line, defines=True)
        self._skip(newlines=False)
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(newlines=False)
            bare = BARE_KEY.match(self._text, self._at)
            if bare is not None:
                parts.append(bare[0])
                self._at = bare.end()
            else:
                start = self._at
                self._string()
                raw = self._text[start : self._at]
                parts.append(tomllib.loads(f"k = {raw}")["k"])
            self._skip(newlines=False)
            if not self._take("."):
                return tuple(parts)

    def _value(self, path: TomlPath) -> None:
        char = self._text[self._at : self._at + 1]
        if char in ('"', "'"):
            self._string()
        elif char == "[":
            self._array(path)
        elif char == "{":
            self._inline_table(path)
        else:
            bare = _BARE_VALUE.match(self._text, self._at)
            if bare is None:
                raise _Unscannable("a value")
            self._at = bare.end()

    def _string(self) -> None:
        quote = self._text[self._at : self._at + 1]
        if quote not in ('"', "'"):
            raise _Unscannable("a string")
        triple = self._take(quote * 3)
        end = quote * 3 if triple else quote
        self._at += 0 if triple else 1
        while not self._text.startswith(end, self._at):
            if self._at >= len(self._text) or (self._text[self._at] == "\n" and not triple):
                raise _Unscannable("the end of a string")
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(end)
        for _ in range(2 if triple else 0):  # up to two quotes may stand before the closing three
            self._take(quote)

    def _array(self, path: TomlPath) -> None:
        self._need("[")
        index = 0
        while True:
            if not self._skip(newlines=True):
                raise _Unscannable("the end of an array")
            if self._take("]"):
                return
            element = (*path, index)
            self._note(element, self._line(), defines=False)
            self._value(element)
            index += 1
            self._skip(newlines=True)
            if not self._take(","):
                self._need("]")
                return

    def _inline_table(self, path: TomlPath) -> None:
        self._need("{")
        self._skip(newlines=True)  # line ends are allowed here from TOML 1.1 on
        while not self._take("}"):
            self._pair(path)
            self._skip(newlines=True)
            if not self._take(","):
                self._need("}")
                return
            self._skip(newlines=True)
