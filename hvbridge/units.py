"""Durations, sizes and rates as people write them: `"500ms"`, `"2m"`, `"off"`, `"64KiB"`, `"10/s"`.

Owns: parsing and printing; what is printed parses back to the same value.
Refuses: which values a setting takes, apart from a bound that keeps the arithmetic sound.
"""

import math
import re

from hvbridge.text import shown

OFF = math.inf
"""The duration that `"off"` stands for: a deadline that far never comes."""

MAX_DURATION = 366 * 24 * 3600.0
"""Seconds. A limit of over a year is a slip of the pen; `"off"` says what is meant."""

MAX_SIZE = 1 << 62
"""Bytes: what fits a signed 64-bit number, with room."""

MIN_BANDWIDTH = 1 << 10
"""Bytes a second. Below, a connection is as good as dead."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DIGITS_AFTER_POINT = 6
"""A duration is kept to the microsecond, so that it prints exactly and shortly."""

# Bounded repeats: int() refuses a text of thousands of digits with an error of its own.
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|s|m|h)?")
_RATE = re.compile(r"([0-9]{1,9}) ?/ ?(s|m|h)")
_SIZE = re.compile(r"([0-9]{1,19}) ?(B|KiB|MiB|GiB)?")


class UnitError(ValueError):
    """A duration or a size is wrong; the text is "what is wrong; what to write"."""


def parse_duration(value: object, *, off: bool = False) -> float:
    """Return the seconds that ``value`` stands for: a number, or a text such as `"500ms"`, `"10s"`, `"2m"`.

    Args:
        value: a number of seconds, or a number with one of the units ms, s, m and h.
        off: whether `"off"` is a value, too; it gives `OFF`.

    Raises:
        UnitError: it is none of these, negative, or longer than a year.
    """
    advice = 'write a number of seconds or a string such as "500ms", "10s", "2m" or "1h"'
    if off:
        advice += ', or "off"'
    if value == "off":
        if off:
            return OFF
        raise UnitError(f'"off" is not allowed here; {advice}')
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise UnitError(f"{shown(value)} is not a duration; {advice}")
        seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= MAX_DURATION:  # before float(), which a huge int overflows; false for NaN
            raise UnitError(f"{shown(value)} is not between 0 seconds and a year; {advice}")
        seconds = float(value)
    else:
        raise UnitError(f"{shown(value)} is not a duration; {advice}")
    if seconds > MAX_DURATION:
        raise UnitError(f"{shown(value)} is longer than a year; {advice}")
    return round(seconds, _DIGITS_AFTER_POINT)


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads back as ``seconds``, kept to the microsecond."""
    if seconds == OFF:
        return "off"
    for unit in ("h", "m", "s"):
        count, rest = divmod(seconds, _SECONDS[unit])
        if count and not rest:
            return f"{count:.0f}{unit}"
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000 and milliseconds / 1000 == seconds:
        return f"{milliseconds}ms"
    return f"{seconds:.{_DIGITS_AFTER_POINT}f}".rstrip("0").rstrip(".") + "s"


def parse_rate(value: object) -> float:
    """Return the times a second that ``value`` stands for: a text such as `"10/s"`, `"30/m"`, or `"off"` (`OFF`).

    Raises:
        UnitError: it is none of these, or 0.
    """
    advice = 'write a string such as "10/s" or "30/m", or "off"'
    if value == "off":
        return OFF
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise UnitError(f"{shown(value)} is not a rate; {advice}")
    if not int(match[1]):
        raise UnitError(f"a rate of 0 would accept no connections; {advice}")
    return int(match[1]) / _SECONDS[match[2]]


def format_rate(rate: float) -> str:
    """Return the text that `parse_rate` reads back as ``rate``."""
    if rate == OFF:
        return "off"
    for unit in ("s", "m", "h"):
        count = rate * _SECONDS[unit]
        if math.isclose(count, round(count)):
            break
    return f"{count:.0f}/{unit}"


def parse_bandwidth(value: object) -> float:
    """Return the bytes a second that ``value`` stands for: a size with `"/s"` after it, or `"off"` (`OFF`).

    Raises:
        UnitError: it is none of these, or less than `MIN_BANDWIDTH`.
    """
    advice = 'write a string such as "512KiB/s" or "10MiB/s", or "off"'
    if value == "off":
        return OFF
    if not isinstance(value, str) or not value.endswith("/s"):
        raise UnitError(f"{shown(value)} is not a bandwidth; {advice}")
    try:
        size = parse_size(value.removesuffix("/s"))
    except UnitError:
        raise UnitError(f"{shown(value)} is not a bandwidth; {advice}") from None
    if size < MIN_BANDWIDTH:
        raise UnitError(f"{shown(value)} is less than {format_size(MIN_BANDWIDTH)}/s; {advice}")
    return float(size)


def format_bandwidth(bandwidth: float) -> str:
    """Return the text that `parse_bandwidth` reads back as ``bandwidth``."""
    return "off" if bandwidth == OFF else f"{format_size(int(bandwidth))}/s"


def parse_size(value: object) -> int:
    """Return the bytes that ``value`` stands for: a whole number, or a text such as `"64KiB"` or `"1MiB"`.

    Raises:
        UnitError: it is none of these, negative, or over `MAX_SIZE`.
    """
    advice = 'write a whole number of bytes or a string such as "64KiB" or "1MiB"'
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise UnitError(f"{shown(value)} is not a size; {advice}")
        size = int(match[1]) * _BYTES[match[2] or "B"]
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise UnitError(f"{shown(value)} is not a size; {advice}")
    if not 0 <= size <= MAX_SIZE:
        raise UnitError(f"{shown(value)} is out of range; {advice}")
    return size


def format_size(size: int) -> str:
    """Return the shortest text that `parse_size` reads back as ``size`` bytes."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"
