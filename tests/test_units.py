"""Durations and sizes, read and printed."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvbridge.units import (
    MAX_DURATION,
    MAX_SIZE,
    OFF,
    UnitError,
    format_bandwidth,
    format_duration,
    format_rate,
    format_size,
    parse_bandwidth,
    parse_duration,
    parse_rate,
    parse_size,
)

ANYTHING = (
    st.text()
    | st.text("0123456789.smh iKMB-+e", max_size=12)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.integers())
)


@pytest.mark.parametrize(
    ("written", "seconds", "printed"),
    [
        ("500ms", 0.5, "500ms"),
        ("10s", 10.0, "10s"),
        ("10", 10.0, "10s"),
        ("2m", 120.0, "2m"),
        ("1h", 3600.0, "1h"),
        ("90s", 90.0, "90s"),
        ("1.5 s", 1.5, "1.5s"),
        ("1.5h", 5400.0, "90m"),
        ("0.1ms", 0.0001, "0.0001s"),
        (30, 30.0, "30s"),
        (0.25, 0.25, "250ms"),
        (0, 0.0, "0s"),
    ],
)
def test_a_duration_is_read_and_printed(written: str | float, seconds: float, printed: str) -> None:
    """Every unit, and numbers of seconds; printed in the largest unit that is exact."""
    assert parse_duration(written) == seconds
    assert format_duration(seconds) == printed


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("", '"" is not a duration'),
        ("10 sec", '"10 sec" is not a duration'),
        ("-1s", '"-1s" is not a duration'),
        ("1h30m", '"1h30m" is not a duration'),
        ("10S", '"10S" is not a duration'),
        ("٣s", '"٣s" is not a duration'),
        ("1" * 5000, f'"{"1" * 79}…" is not a duration'),
        ("9000h", '"9000h" is longer than a year'),
        (-1, "-1 is not between 0 seconds and a year"),
        pytest.param(10**5000, "a huge number is not between 0 seconds and a year", id="huge"),
        (math.nan, "nan is not between 0 seconds and a year"),
        (math.inf, "inf is not between 0 seconds and a year"),
        (True, "a boolean is not a duration"),
        (["10s"], "a list is not a duration"),
    ],
)
def test_what_is_no_duration_is_told(written: Any, what: str) -> None:
    """The message quotes what was written, and says what to write."""
    with pytest.raises(UnitError) as error:
        parse_duration(written)
    assert (
        str(error.value)
        == f'{what}; write a number of seconds or a string such as "500ms", "10s", "2m" or "1h"'
    )


def test_off_counts_only_where_it_is_allowed() -> None:
    """`off` is no limit where a setting has that, and a clear error elsewhere."""
    assert parse_duration("off", off=True) == OFF
    assert format_duration(OFF) == "off"
    with pytest.raises(UnitError, match=r'^"off" is not allowed here; write a number of seconds'):
        parse_duration("off")
    with pytest.raises(UnitError, match=r'or "off"$'):
        parse_duration("of", off=True)


@given(st.floats(0, MAX_DURATION) | st.integers(0, int(MAX_DURATION)))
def test_a_duration_comes_back_from_its_text(seconds: float) -> None:
    """Printing and reading loses nothing of a duration that has been read, to the microsecond."""
    read = parse_duration(seconds)
    assert parse_duration(format_duration(read)) == read
    assert abs(read - seconds) <= 1e-6


@given(ANYTHING)
def test_anything_is_a_duration_or_a_unit_error(value: object) -> None:
    """No value of any type gets another exception, or a result that is not a duration."""
    try:
        seconds = parse_duration(value)
    except UnitError as error:
        assert "; write" in str(error)  # noqa: PT017 (either way is right here)
    else:
        assert 0 <= seconds <= MAX_DURATION


@pytest.mark.parametrize(
    ("written", "size", "printed"),
    [
        ("64KiB", 65536, "64KiB"),
        ("1 MiB", 1 << 20, "1MiB"),
        ("2GiB", 2 << 30, "2GiB"),
        ("1000", 1000, "1000B"),
        ("1025B", 1025, "1025B"),
        (4096, 4096, "4KiB"),
        (0, 0, "0B"),
    ],
)
def test_a_size_is_read_and_printed(written: str | int, size: int, printed: str) -> None:
    """Every unit, and numbers of bytes; printed in the largest unit that is exact."""
    assert parse_size(written) == size
    assert format_size(size) == printed


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("64KB", '"64KB" is not a size'),
        ("64k", '"64k" is not a size'),
        ("1.5MiB", '"1.5MiB" is not a size'),
        ("-1", '"-1" is not a size'),
        (-1, "-1 is out of range"),
        ("9999999999GiB", '"9999999999GiB" is out of range'),
        (1.5, "1.5 is not a size"),
        pytest.param(-(10**5000), "a huge negative number is out of range", id="huge"),
        (False, "a boolean is not a size"),
    ],
)
def test_what_is_no_size_is_told(written: Any, what: str) -> None:
    """The message quotes what was written, and says what to write."""
    with pytest.raises(UnitError) as error:
        parse_size(written)
    assert str(error.value) == f'{what}; write a whole number of bytes or a string such as "64KiB" or "1MiB"'


@given(st.integers(0, MAX_SIZE))
def test_a_size_comes_back_from_its_text(size: int) -> None:
    """Printing and reading loses nothing."""
    assert parse_size(format_size(size)) == size == parse_size(size)


@given(ANYTHING)
def test_anything_is_a_size_or_a_unit_error(value: object) -> None:
    """No value of any type gets another exception, or a result that is not a size."""
    try:
        size = parse_size(value)
    except UnitError as error:
        assert "; write" in str(error)  # noqa: PT017 (either way is right here)
    else:
        assert 0 <= size <= MAX_SIZE


@pytest.mark.parametrize(
    ("text", "rate"), [("10/s", 10.0), ("30/m", 0.5), ("1/h", 1 / 3600), ("7 / s", 7.0), ("off", OFF)]
)
def test_rates(text: str, rate: float) -> None:
    """A rate is a whole number in a second, a minute or an hour, and prints so that it reads back."""
    assert parse_rate(text) == rate
    assert parse_rate(format_rate(rate)) == rate


@given(count=st.integers(1, 10**9 - 1), unit=st.sampled_from("smh"))
def test_every_rate_reads_back(count: int, unit: str) -> None:
    """Whatever rate was written, what is printed means the same."""
    rate = parse_rate(f"{count}/{unit}")
    assert parse_rate(format_rate(rate)) == pytest.approx(rate)


@pytest.mark.parametrize(("text", "bandwidth"), [("10MiB/s", 10.0 * 2**20), ("1024/s", 1024.0), ("off", OFF)])
def test_bandwidths(text: str, bandwidth: float) -> None:
    """A bandwidth is a size in a second, and prints so that it reads back."""
    assert parse_bandwidth(text) == bandwidth
    assert parse_bandwidth(format_bandwidth(bandwidth)) == bandwidth


@pytest.mark.parametrize("value", ["10", "0/s", "-1/s", "1.5/s", "10/d", 10, True, None, "9" * 99 + "/s"])
def test_what_is_no_rate_is_said(value: Any) -> None:
    """The message says what to write."""
    with pytest.raises(UnitError, match="; write a string"):
        parse_rate(value)


@pytest.mark.parametrize("value", ["10MiB", "1/s", "/s", "1MB/s", 10, True, None, "9" * 99 + "/s"])
def test_what_is_no_bandwidth_is_said(value: Any) -> None:
    """The message says what to write."""
    with pytest.raises(UnitError, match="; write a string"):
        parse_bandwidth(value)
