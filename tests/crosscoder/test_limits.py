import gzip
import time

import pytest

from crosscoder import limits
from crosscoder.errors import InputError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100 + "]" * 100, "nested deeper"),
        ("[" * 200_000, "nested deeper"),
        ('{"a":' * 200_000, "nested deeper"),
        ("9" * 5000, "integer is too long"),
        ("9" * 30, "beyond 64 bits"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e999", "not finite"),
        ("{", "no valid JSON"),
        (b"\xff{}", "UTF-8"),
    ],
)
def test_json_beyond_the_limits_is_one_line(text: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        limits.parse_json(text, "the body")
    assert str(caught.value).startswith("the body: ")
    assert "\n" not in str(caught.value)


def test_json_within_the_limits_is_read() -> None:
    assert limits.parse_json('{"a": [1, 2.5, null, "x"]}', "it") == {"a": [1, 2.5, None, "x"]}
    assert limits.parse_json(str(limits.MAX_INTEGER), "it") == limits.MAX_INTEGER


ALIAS_BOMB = "a: &a [x, x]\n" + "\n".join(f"k{n}: [{', '.join(['*a'] * 10)}]" for n in range(200))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 20_000, "nested deeper"),
        (ALIAS_BOMB, "anchors"),
        ("a: [", "no valid YAML"),
        ("a: " + "9" * 5000, "number is too long"),
        ("a: .inf", "not finite"),
        ("a: 2026-99-99", "cannot be read"),
    ],
)
def test_yaml_beyond_the_limits_is_one_line(text: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=words) as caught:
        limits.load_yaml(text, "taxonomy.yaml")
    assert str(caught.value).startswith("taxonomy.yaml: ")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_gzip_of_several_members_is_unpacked() -> None:
    content = gzip.compress(b"one\n", mtime=0) + gzip.compress(b"two\n")
    assert limits.gunzip(content, "it") == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(bytes(3 * 2**20), mtime=0), "unpacks to more than"),
        (gzip.compress(b"cut", mtime=0)[:-6], "no whole gzip"),
        (b"not gzip", "no whole gzip"),
    ],
)
def test_gzip_that_is_broken_or_too_large_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        limits.gunzip(content, "it", largest=2 * 2**20)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"12345")
    with pytest.raises(InputError, match="larger than 4 bytes"):
        limits.read_bytes(path, largest=4)
    assert limits.read_bytes(path, largest=5) == b"12345"
