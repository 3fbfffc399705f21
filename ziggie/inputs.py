"""Bodies of REST requests that are read strictly: an unknown key is a mistake, and every mistake says its place."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from ziggie.errors import InvalidInput

MAX_MISTAKES = 100
MAX_UNKNOWN = 20
NAME = "the request"


class WholeCharacters(JSONParser):
    """JSON as the gateway takes it: without halves of characters, be they in a name. No answer could repeat them."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        said = super().parse(stream, media_type, parser_context)
        try:
            json.dumps(said, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):x}"
            raise ParseError(f"JSON parse error - {half} is half of a character") from None
        return said


class StrictInput(serializers.Serializer[Any]):
    """Knows its keys and refuses others."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = [str(key) for key in data if key not in self.fields] if isinstance(data, Mapping) else []
        known = f"unknown key; known are {', '.join(self.fields)}"
        mistakes: dict[str, Any] = {key[:100]: [known] for key in unknown[:MAX_UNKNOWN]}
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            found = error.detail if isinstance(error.detail, dict) else {"": error.detail}
            raise serializers.ValidationError(mistakes | found) from None
        if mistakes:
            raise serializers.ValidationError(mistakes)
        return value


def read(form: serializers.BaseSerializer[Any]) -> Any:
    """What a form was given, checked. Raises InvalidInput with each mistake and its place."""
    if not form.is_valid():
        refuse(list(_mistakes(form.errors, "")))
    return form.validated_data


def refuse(mistakes: list[tuple[str, str]]) -> NoReturn:
    """Raises InvalidInput for these places and what is wrong there."""
    details = [{"place": place or NAME, "problem": problem} for place, problem in mistakes[:MAX_MISTAKES]]
    first = f": {details[0]['place']}: {details[0]['problem']}" if len(details) == 1 else ""
    count = f"{len(mistakes)} mistake{'s'[: len(mistakes) != 1]}"
    raise InvalidInput(f"{NAME} has {count}; nothing was changed{first}", details=details)


def _mistakes(found: Any, place: str) -> Iterator[tuple[str, str]]:
    """Errors as Django REST framework nests them, flat."""
    if isinstance(found, Mapping):
        for key, inner in found.items():
            yield from _mistakes(inner, _below(place, key))
    elif isinstance(found, list):
        for number, inner in enumerate(found):
            nested = isinstance(inner, Mapping | list)
            yield from _mistakes(inner, f"{place}[{number}]" if nested else place)
    else:
        yield place, str(found)


def _below(place: str, key: Any) -> str:
    if key in ("", "non_field_errors"):
        return place
    if isinstance(key, int):
        return f"{place}[{key}]"
    return f"{place}.{key}" if place else str(key)
