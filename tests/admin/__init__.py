"""The admin endpoint: in memory and virtual time where that can be, over real sockets where it must be."""

import pytest

for _package in ("starlette", "h11", "prometheus_client"):
    pytest.importorskip(_package, reason="the extra admin is not installed")
