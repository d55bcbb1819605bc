"""Reads a TOML file into a msgspec struct and names every mistake in it, not only the first.

The struct is the schema: the walk follows its fields and asks msgspec about every single value, so nothing is written
twice. Values that pass are kept in a *clean* tree of plain dicts, defaults filled in, from which rules between values
can still be judged when other values are wrong.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from rha.errors import ConfigError
from rha.scenario import Duration, Rate, Size, decode_unit

S = TypeVar("S", bound=msgspec.Struct)

Clean = dict[str, Any]
_NOTHING = object()  # a value that did not pass
_UNITS = {
    Size: "a size with its unit, such as 64KiB or 2GiB",
    Duration: "a duration with its unit, such as 500ms or 5s",
    Rate: "a rate with its unit, such as 20MiB/s or 100Mbit/s",
}
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", **_UNITS}


class Mistake(NamedTuple):
    """One wrong place in a file: `path` such as `disk[1].device`, and what is wrong there."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


Rules = Callable[[Clean], Iterable[Mistake]]


def load(path: Path, kind: type[S], rules: Rules, *, hint: str) -> S:
    """The file as a `kind`.

    Raises ConfigError that lists every mistake; `hint` says where a right file can be seen.
    """
    data = read(path)
    found = mistakes(data, kind, rules)
    if found:
        raise refusal(path, found, hint)
    return msgspec.convert(data, kind, dec_hook=decode_unit)


def mistakes(data: Clean, kind: type[msgspec.Struct], rules: Rules) -> list[Mistake]:
    """Everything that is wrong: values first, then what the rules say about those values that are right."""
    found: list[Mistake] = []
    clean = _walk_table(data, kind, "", found)
    return [*found, *rules(clean)]


def refusal(path: Path, found: list[Mistake], hint: str) -> ConfigError:
    """The mistakes of one file as one error."""
    count = "one mistake" if len(found) == 1 else f"{len(found)} mistakes"
    return ConfigError(f"{path} has {count}", cause="\n       ".join(map(str, found)), hint=hint)


def read(path: Path) -> Clean:
    """The plain content of a TOML file.

    Raises ConfigError when it cannot be read or is not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", cause=error.strerror or str(error), hint=f"ls -l {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text", cause=f"byte {error.start} is not UTF-8") from error
    except (ValueError, RecursionError) as error:  # also a number of five thousand digits, lists a thousand deep
        raise ConfigError(f"{path} is not valid TOML", cause=str(error), hint="https://toml.io/en/v1.0.0") from error


def join(path: str, key: str) -> str:
    """The path of a key below another path."""
    return f"{path}.{key}" if path else key


def _walk(value: object, kind: Any, path: str, found: list[Mistake]) -> Any:
    inner = _without_none(kind)
    if _is_choice(inner):
        return _walk_choice(value, inner, path, found)
    if _is_struct(inner):
        return _walk_table(value, inner, path, found)
    if typing.get_origin(inner) is list:
        return _walk_list(value, typing.get_args(inner)[0], path, found)
    return _leaf(value, inner, path, found)


def _walk_table(value: object, kind: type[msgspec.Struct], path: str, found: list[Mistake]) -> Any:
    if not isinstance(value, dict):
        found.append(Mistake(path, f"expected a table, got {_shown(value)}"))
        return _NOTHING
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    found.extend(Mistake(join(path, key), _unknown(key, fields)) for key in value if key not in fields)
    clean = {}
    for name, field in fields.items():
        if name in value:
            clean[name] = _walk(value[name], field.type, join(path, name), found)
        elif field.required:
            found.append(Mistake(join(path, name), f"missing; {_wanted(field.type)} is needed"))
        else:
            clean[name] = _default(field)
    return {name: item for name, item in clean.items() if item is not _NOTHING}


def _walk_choice(value: object, kind: Any, path: str, found: list[Mistake]) -> Any:
    """A table whose tag (`type = "…"`) says which of several structs it is. The clean one keeps its tag."""
    tables = {table.__struct_config__.tag: table for table in typing.get_args(kind)}
    field = typing.get_args(kind)[0].__struct_config__.tag_field
    tag = value.get(field) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        found.append(Mistake(path, f"expected a table, got {_shown(value)}"))
    elif tag is None:
        found.append(Mistake(join(path, field), f"missing; one of {', '.join(tables)} is needed"))
    elif tag not in tables:
        found.append(Mistake(join(path, field), _none_of(tag, tables)))
    else:
        rest = {key: item for key, item in value.items() if key != field}
        return {field: tag, **_walk_table(rest, tables[tag], path, found)}
    return _NOTHING


def _walk_list(value: object, kind: Any, path: str, found: list[Mistake]) -> Any:
    if not isinstance(value, list):
        form = f"write [[{path}]] instead of [{path}]" if isinstance(value, dict) else f"got {_shown(value)}"
        found.append(Mistake(path, f"expected a list; {form}"))
        return _NOTHING
    items = [_walk(item, kind, f"{path}[{index}]", found) for index, item in enumerate(value)]
    is_table = _is_struct(kind) or _is_choice(kind)
    return [{} if item is _NOTHING and is_table else item for item in items]


def _leaf(value: object, kind: Any, path: str, found: list[Mistake]) -> Any:
    try:
        return msgspec.convert(value, kind, dec_hook=_decode_file_unit)
    except msgspec.ValidationError as error:
        found.append(Mistake(path, _why_not(value, kind, error)))
        return _NOTHING


def _decode_file_unit(kind: type, value: object) -> Any:
    """In a file a number without a unit is refused: nobody should have to guess whether 64 is bytes or MiB."""
    if not isinstance(value, str):
        raise ValueError(f"expected {_KINDS[kind]}, got {_shown(value)}")
    return decode_unit(kind, value)


def _why_not(value: object, kind: Any, error: msgspec.ValidationError) -> str:
    bare = _bare(kind)
    if bare in _UNITS:
        return str(error)
    if typing.get_origin(bare) is Literal:
        return _none_of(value, [str(choice) for choice in typing.get_args(bare)])
    if isinstance(bare, type) and isinstance(value, bare) and not isinstance(value, bool):
        return f"{_shown(value)} {_constraint(kind, error)}"
    return f"expected {_wanted(kind)}, got {_shown(value)}"


def _constraint(kind: Any, error: msgspec.ValidationError) -> str:
    for meta in typing.get_args(kind)[1:]:
        if isinstance(meta, msgspec.Meta) and meta.description:
            return f"is not {meta.description}"
        if isinstance(meta, msgspec.Meta) and meta.pattern:
            return "is no name; lower-case letters, digits and inner hyphens, at most 63 characters"
    return f"is refused: {error}"


def _unknown(key: str, known: Iterable[str]) -> str:
    return f"unknown key{_suggestion(key, known)}"


def _none_of(value: object, choices: Iterable[str]) -> str:
    return f"{_shown(value)} is none of {', '.join(choices)}{_suggestion(str(value), choices)}"


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return _walk_table({}, type(field.default), "", []) if _is_struct(type(field.default)) else field.default


def _wanted(kind: Any) -> str:
    bare = _bare(_without_none(kind))
    if typing.get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(bare)))}"
    if typing.get_origin(bare) is list:
        return "a list"
    return "a table" if _is_struct(bare) else _KINDS[bare]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return repr(value)


def _is_choice(kind: Any) -> bool:
    """A union of tagged structs?"""
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and all(map(_is_struct, typing.get_args(kind)))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) not in (typing.Union, types.UnionType) or _is_choice(kind):
        return kind
    (only,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return only


def repeated(values: Iterable[tuple[str, Any]]) -> Iterator[Mistake]:
    """A mistake for each (path, value) whose value stood there before."""
    seen: dict[Any, str] = {}
    for path, value in values:
        if value in seen:
            yield Mistake(path, f"{_shown(value)} is already used by {seen[value]}")
        else:
            seen[value] = path
