import dataclasses
from typing import Any

import pytest

from vla_jax.core import json_file
from vla_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    parts: dict[str, Part]
    count: int | None = None


GOOD = '{"parts": {"a": {"name": "x", "sizes": [1, 2]}}, "count": null, "later": 1}'


def test_reads_what_fits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(GOOD)
    assert json_file.read(path, Whole) == Whole(parts={"a": Part(name="x", sizes=(1, 2))})
    assert json_file.read(path, dict[str, Any])["later"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"parts": {"a": {"name": 3}}}',
            r"a.json, field parts\[...\].name: expected str, got int",
        ),
        ('{"parts": {"a": {}}}', r"field parts\[...\]: object missing required field name"),
        ('{"parts": []}', "field parts: expected object, got array"),
        ("[]", "a.json: expected object, got array"),
        ("", r"a.json: not valid JSON \(Expecting value"),
        ('{"parts": {}, "parts": {}}', "the key 'parts' appears twice"),
        ('{"parts": {}, "count": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        ('{"parts": {}, "count": true}', "field count: expected int | null, got bool"),
    ],
)
def test_names_file_and_field(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message.replace("|", r"\|")) as caught:
        json_file.read(path, Whole)
    assert "\n" not in str(caught.value)


def test_lines_are_numbered(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"name": "x"}\n\n{"name": 3}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 3, field name"):
        json_file.read_lines(path, Part)
    path.write_text('{"name": "x"}\n\n')
    assert json_file.read_lines(path, Part) == [Part(name="x")]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: No such file"):
        json_file.read(tmp_path / "absent.json", Whole)
    with pytest.raises(UserError, match="Is a directory"):
        json_file.read(tmp_path, Whole)
