"""Description in words of what a JSON schema takes, for errors: "an integer, 1 to 100"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

_WORDS = {"string": "text", "integer": "an integer", "number": "a number", "boolean": "true or false", "null": "null"}
_SHOWN_FIELDS = 32  # names of an object's fields, at most


class SchemaWalk:
    """Place inside a JSON schema, reached along the location of a validation error.

    Args:
        root: The whole schema, with its definitions.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._places = self._alternatives(root)

    def enter(self, part: str | int) -> bool:
        """Go on to an entry or a field; return false, and stay, if the schema has nothing of this name.

        The validation library puts names of its own into locations, such as the type of an alternative that it tried.
        """
        found: list[Schema] = []
        for place in self._places:
            if isinstance(part, int):
                found += self._alternatives(place["items"]) if "items" in place else []
            elif part in place.get("properties", {}):
                found += self._alternatives(place["properties"][part])

        if found:
            self._places = found
        return bool(found)

    @property
    def fields(self) -> list[str]:
        """Names of the fields that objects at this place may have."""
        return list(dict.fromkeys(name for place in self._places for name in place.get("properties", {})))

    def describe(self) -> str:
        """Return in words what this place takes."""
        words = dict.fromkeys(_describe(place, self._entries_of(place)) for place in self._places)
        return " or ".join(word for word in words if word)

    def _entries_of(self, place: Schema) -> str:
        entries = self._alternatives(place["items"]) if "items" in place else []
        return " or ".join(dict.fromkeys(_describe(each, "") for each in entries))

    def _alternatives(self, schema: Schema) -> list[Schema]:
        """Return the schema without references, or its alternatives."""
        while "$ref" in schema:
            schema = self._root["$defs"][schema["$ref"].rpartition("/")[2]]
        if "anyOf" not in schema:
            return [schema]
        outer = {name: value for name, value in schema.items() if name.startswith("max")}
        return [outer | found for each in schema["anyOf"] for found in self._alternatives(each)]


def _describe(schema: Schema, entries: str) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"

    kind = schema.get("type", "")
    if kind == "array":
        least, most = schema.get("minItems"), schema.get("maxItems")
        size = _bounds(least, most)
        return f"a list{f' of {size} entries' if size else ''}{f', each {entries}' if entries else ''}"
    if kind == "object":
        return _describe_object(schema)
    if kind == "string":
        size = _bounds(schema.get("minLength"), schema.get("maxLength"))
        form = " in ISO 8601" if schema.get("format") == "date-time" else ""
        return f"text{form}{f' of {size} characters' if size else ''}"

    word = _WORDS.get(kind, "")
    if "exclusiveMinimum" in schema:
        return f"{word} above {schema['exclusiveMinimum']}"
    size = _bounds(schema.get("minimum"), schema.get("maximum"))
    return f"{word}, {size}" if size else word


def _describe_object(schema: Schema) -> str:
    names = list(schema.get("properties", {}))[:_SHOWN_FIELDS]
    if not names:
        size = _bounds(schema.get("minProperties"), schema.get("maxProperties"))
        return f"an object{f' of {size} fields' if size else ''}"

    needed: Sequence[str] = schema.get("required", [])
    also = f"; needed: {', '.join(needed)}" if needed else ""
    return f"an object with fields of {', '.join(names)}{also}"


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"{least} to {most}"
    if least is not None:
        return f"at least {least}"
    return f"at most {most}" if most is not None else ""
