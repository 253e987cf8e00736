"""Amounts as a person reads them at a glance: rounded, with a unit, and short.

Owns: rounding. Refuses: what a config takes back (`hvbridge.units`).
"""

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400  # seconds


def size(count: float) -> str:
    """Return ``count`` bytes as `812 B` or `1.4 MiB`, in no more than 9 characters."""
    if count < 999.5:
        return f"{count:.0f} B"
    power = 1
    while power < len(_UNITS) and count >= 999.95 * 1024**power:
        power += 1
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"


def rate(per_second: float | None) -> str:
    """Return bytes a second as `1.4 MiB/s`; None, where nobody knows yet, is a dash."""
    return "-" if per_second is None else f"{size(per_second)}/s"


def age(seconds: float) -> str:
    """Return a span of time by its two largest units: `0.4s`, `12s`, `3m 12s`, `4d 2h`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"
