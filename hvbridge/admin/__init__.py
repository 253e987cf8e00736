"""The admin endpoint of a running bridge: health, metrics, an API, events, and a page to look at.

Owns: what of it is safe to import. This module, `control` and `stats` load no other package. `server`
loads Starlette, h11 and prometheus-client, which come with the extra ``admin``: whoever starts an endpoint
calls `require`, and imports `server` only then, so that what has no admin endpoint neither needs nor pays for them.
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
