"""The admin endpoint of a running bridge: health, metrics, an API, events, and a web page.

This module and `stats` import no other packages. `server` imports Starlette, h11 and prometheus-client, which come with
the extra ``admin``: call `require` before importing it, and import it only to start an endpoint, so that a bridge
without one neither needs nor loads them.
"""

from importlib.util import find_spec

_PACKAGES = ("starlette", "h11", "prometheus_client")


class ExtraMissingError(ValueError):
    """The packages of the extra ``admin`` are not installed; the message says how to install them."""


def require() -> None:
    """Raise `ExtraMissingError` unless `server` can be imported."""
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ExtraMissingError(
            f"the admin endpoint needs {', '.join(missing)}; install it: pip install 'hvbridge[admin]'"
        )
