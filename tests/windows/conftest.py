"""The fixture of the tests over Hyper-V sockets."""

from pathlib import Path

import pytest

from .partitions import Partitions


@pytest.fixture
def partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Partitions:
    """Return the partitions of this test."""
    return Partitions(tmp_path / "partitions", monkeypatch)
