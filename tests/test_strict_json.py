"""JSON texts: one reader for all, and one kind of error."""

import pytest

from phalanx.strict_json import parse_json


def test_text_and_bytes_are_read() -> None:
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert parse_json(b'\xef\xbb\xbf"\xc3\xa9"') == "é"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": NaN}', "NaN is not a number of JSON"),
        (b"[-Infinity]", "-Infinity is not a number of JSON"),
        ("[" * 100_000, "it is nested too deep"),
        (b'"\xff"', "it is not UTF-8"),
        ("9" * 5000, "^it has a number of too many digits$"),
        ("{", "Expecting property name"),
    ],
)
def test_what_is_no_json(content: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(content)
