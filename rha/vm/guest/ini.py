"""Texts of sections and `key=value` lines, as systemd and NetworkManager write them. Lines that nobody asks for stay as
they are, comments too. One section may stand several times, and one key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Test = Callable[[str, str], bool]  # key, value


@dataclass
class Section:
    """`head`: its line, empty for what stands before the first one. `lines`: without their ends."""

    name: str
    head: str = ""
    lines: list[str] = field(default_factory=list)

    def values(self, key: str) -> list[str]:
        return [value for name, value in map(_split, self.lines) if name == key]

    def drop(self, test: Test) -> None:
        self.lines = [line for line in self.lines if not _is_setting(line) or not test(*_split(line))]

    def put(self, key: str, value: str) -> None:
        """One more line, behind the last one that says something."""
        end = len(self.lines)
        while end and not self.lines[end - 1].strip():
            end -= 1
        self.lines.insert(end, f"{key}={value}")


class Ini:
    """A text, section by section."""

    def __init__(self, text: str) -> None:
        self.sections = [Section("")]
        for line in text.split("\n"):
            bare = line.strip()
            if bare.startswith("[") and bare.endswith("]"):
                self.sections.append(Section(bare[1:-1], line))
            else:
                self.sections[-1].lines.append(line)

    def named(self, *names: str) -> list[Section]:
        return [section for section in self.sections if section.name in names]

    def values(self, name: str, key: str) -> list[str]:
        return [value for section in self.named(name) for value in section.values(key)]

    def first(self, name: str, key: str) -> str:
        return next(iter(self.values(name, key)), "")

    def drop(self, name: str, test: Test) -> None:
        for section in self.named(name):
            section.drop(test)

    def section(self, name: str) -> Section:
        """The first of that name; made at the end when there is none."""
        found = self.named(name)
        if found:
            return found[0]
        if self.sections[-1].lines[-1:] == [""]:
            self.sections[-1].lines.pop()
        self.sections.append(Section(name, f"[{name}]", [""]))
        return self.sections[-1]

    def set(self, name: str, key: str, value: str) -> None:
        """This value and no other."""
        self.drop(name, lambda found, _: found == key)
        self.section(name).put(key, value)

    @property
    def text(self) -> str:
        lines: list[str] = []
        for section in self.sections:
            lines += ([section.head] if section.head else []) + section.lines
        return "\n".join(lines)


def _is_setting(line: str) -> bool:
    return "=" in line and not line.lstrip().startswith(("#", ";"))


def _split(line: str) -> tuple[str, str]:
    if not _is_setting(line):
        return "", ""
    key, _, value = line.partition("=")
    return key.strip(), value.strip()
