"""Lines are written by a thread: nobody waits for it, nothing fails with it, and what is lost is counted."""

import errno
import os
import threading

import pytest

from hvbridge.cli import log_writer
from hvbridge.cli.log_writer import LineWriter, write_to

PATIENCE = 10.0


class Disk:
    """Takes bytes as its test lets it."""

    def __init__(self) -> None:
        self.written = b""
        self.failure: OSError | None = None
        self.room = 1 << 30
        self.fails_after: int | None = None
        """Writes that succeed before one fails."""
        self.open = threading.Event()
        self.open.set()
        self.tried = threading.Event()

    def write(self, data: bytes) -> int | None:
        self.tried.set()
        assert self.open.wait(PATIENCE)
        if self.failure is not None or self.fails_after == 0:
            raise self.failure or OSError(errno.ENOSPC, "full")
        if self.fails_after is not None:
            self.fails_after -= 1
        taken = data[: self.room]
        self.written += taken
        return len(taken) or None


def writer(disk: Disk) -> LineWriter:
    return LineWriter(disk.write, lambda count: f"{count} dropped")


def test_lines_are_written_in_order() -> None:
    """Each is on a line of its own, in UTF-8, and closing waits for the last."""
    disk = Disk()
    lines = writer(disk)
    for text in ("one", "zwei ü", "\udc80"):
        lines.put(text)
    lines.close(PATIENCE)
    assert disk.written.decode() == "one\nzwei ü\n\\udc80\n"
    assert lines.dropped == 0


def test_a_full_disk_is_counted_and_told_when_there_is_room_again() -> None:
    """What cannot be written raises nothing; how much was lost stands before the first line that is written again."""
    disk = Disk()
    disk.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = writer(disk)
    for number in range(3):
        disk.tried.clear()
        lines.put(f"lost {number}")
        assert disk.tried.wait(PATIENCE)
    while lines.dropped < 3:
        pass
    disk.failure = None
    lines.put("found")
    lines.close(PATIENCE)
    assert disk.written == b"3 dropped\nfound\n"


def test_a_line_that_was_cut_does_not_spoil_the_next() -> None:
    """Where a line was written in part, the next begins on a line of its own."""
    disk = Disk()
    disk.room, disk.fails_after = 4, 1
    lines = writer(disk)
    lines.put("truncated")
    while not lines.dropped:
        pass
    disk.room, disk.fails_after = 100, None
    lines.put("whole")
    lines.close(PATIENCE)
    assert disk.written == b"trun\n1 dropped\nwhole\n"


def test_nobody_waits_for_a_reader_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are kept up to a bound while the reader takes nothing; the rest is counted, and told afterwards."""
    monkeypatch.setattr(log_writer, "_MAX_QUEUED", 1000)
    disk = Disk()
    disk.open.clear()
    lines = writer(disk)
    for _ in range(1000):
        lines.put("x" * 99)
    assert lines.dropped >= 989
    disk.open.set()
    lines.close(PATIENCE)
    written = disk.written.splitlines()
    assert len([line for line in written if line == b"x" * 99]) == 1000 - lines.dropped
    assert f"{lines.dropped} dropped".encode() in written


def test_closing_does_not_wait_for_ever() -> None:
    """A reader that never reads again does not keep the process."""
    disk = Disk()
    disk.open.clear()
    lines = writer(disk)
    lines.put("for nobody")
    lines.close(0.05)
    disk.open.set()


def test_a_descriptor_that_would_block_is_tried_again() -> None:
    """Where another process has made it non-blocking, a line is written as soon as there is room."""
    disk = Disk()
    disk.room = 0
    lines = writer(disk)
    lines.put("late")
    assert disk.tried.wait(PATIENCE)
    disk.room = 100
    lines.close(PATIENCE)
    assert disk.written == b"late\n"


def test_without_standard_error_lines_go_nowhere() -> None:
    """A process whose standard error is closed logs, and nothing fails."""
    lines = LineWriter(write_to(None), str)
    lines.put("for nobody")
    lines.close(PATIENCE)
    assert lines.dropped == 0
