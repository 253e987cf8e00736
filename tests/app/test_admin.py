"""The token of an admin endpoint: what is too short, or not the owner's alone, is no secret."""

import logging
import sys
from pathlib import Path

import pytest

from hvbridge.app.admin import check_admin
from hvbridge.config import AdminSettings

LONG = "correct horse battery staple"


def settings(directory: Path, token: str, mode: int = 0o600) -> AdminSettings:
    file = directory / "admin.token"
    file.write_text(f"{token}\n")
    file.chmod(mode)
    return AdminSettings.model_validate({"listen": "tcp://127.0.0.1:9180", "token_file": str(file)})


def test_a_token_that_only_its_owner_knows_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of it."""
    check_admin(settings(tmp_path, LONG))
    assert caplog.records == []


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    """What could be guessed is no secret."""
    with pytest.raises(ValueError, match="too short; write at least 16 random characters"):
        check_admin(settings(tmp_path, "x"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead of modes")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_token_that_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    """Who could write it would know it."""
    with pytest.raises(ValueError, match=r"other users may write the token file .*; run: chmod 600"):
        check_admin(settings(tmp_path, LONG, mode))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead of modes")
def test_a_token_that_others_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A container's secrets are often readable by a group, so it is a warning."""
    with caplog.at_level(logging.WARNING):
        check_admin(settings(tmp_path, LONG, 0o644))
    assert "other users may read the token file" in caplog.text
