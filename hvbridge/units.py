"""Parses and formats durations, sizes and rates: `"500ms"`, `"2m"`, `"off"`, `"64KiB"`, `"10/s"`.

Formatted values parse back to the same value. The ranges here only keep the arithmetic sound; a setting may have a
narrower one.
"""

import math
import re

from hvbridge.text import shown

OFF = math.inf
"""The duration of `"off"`: a deadline that never arrives."""

MAX_DURATION = 366 * 24 * 3600.0
"""Seconds. A limit of over a year is a mistake; `"off"` means no limit."""

MAX_SIZE = 1 << 62
"""Bytes; fits a signed 64-bit integer with room to spare."""

MIN_BANDWIDTH = 1 << 10
"""Bytes per second. With less, a connection is useless."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DIGITS_AFTER_POINT = 6
"""Durations are rounded to microseconds, so that they print exactly and briefly."""

# Bounded repeats, because int() raises an error of its own for thousands of digits.
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|s|m|h)?")
_RATE = re.compile(r"([0-9]{1,9}) ?/ ?(s|m|h)")
_SIZE = re.compile(r"([0-9]{1,19}) ?(B|KiB|MiB|GiB)?")


class UnitError(ValueError):
    """A duration or a size is wrong; the text is "what is wrong; what to write"."""


def parse_duration(value: object, *, off: bool = False) -> float:
    """Return the duration ``value`` in seconds: a number, or a string such as `"500ms"`, `"10s"`, `"2m"`.

    Args:
        value: a number of seconds, or a number with one of the units ms, s, m and h.
        off: whether `"off"` is allowed, which gives `OFF`.

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
    """Return the shortest text that `parse_duration` reads back as ``seconds``, rounded to microseconds."""
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
    """Return the rate ``value`` per second: a string such as `"10/s"`, `"30/m"`, or `"off"` (`OFF`).

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
    """Return the bandwidth ``value`` in bytes per second: a size followed by `"/s"`, or `"off"` (`OFF`).

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
    """Return the size ``value`` in bytes: a whole number, or a string such as `"64KiB"` or `"1MiB"`.

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
