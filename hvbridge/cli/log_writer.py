"""Writes log lines in a thread of its own: whoever logs neither waits for a slow reader nor fails with a full disk.

Lines wait in a bounded queue. Those that do not fit, or cannot be written, are dropped and counted, and a line says so
once writing works again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

_MAX_QUEUED = 1 << 20
"""Bytes: some 4,000 lines, more than a reader that is merely slow falls behind."""
_RETRY = 0.05
"""Seconds to wait where a non-blocking descriptor takes no more just now."""

Write = Callable[[bytes], int | None]
"""Writes some bytes and returns how many: None where none would go without a wait. Raises OSError."""


class LineWriter:
    """Writes lines by ``write``. ``dropped_line`` makes the line that tells how many lines were dropped.

    No method raises or waits, but for `close`. The thread is a daemon: it never keeps the process.
    """

    def __init__(self, write: Write, dropped_line: Callable[[int], str], encoding: str = "utf-8") -> None:
        self.dropped = 0
        """Lines that were dropped since the start."""
        self._dropped_line = dropped_line
        self._write = write
        self._encoding = encoding
        self._reported = 0
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_amid_line = False
        self._thread = threading.Thread(target=self._run, name="hvbridge log", daemon=True)
        self._thread.start()

    def put(self, text: str) -> None:
        """Have ``text``, a line or several without the last line's end, written soon."""
        line = self._encoded(text)
        with self._changed:
            if self._queued + len(line) > _MAX_QUEUED:
                self.dropped += 1
                return
            self._queue.append(line)
            self._queued += len(line)
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write what waits, for at most ``timeout`` seconds. Lines that come later are dropped with the process."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            self._report_dropped()
            if not self._write_line(line):
                with self._changed:
                    self.dropped += 1
        self._report_dropped()

    def _report_dropped(self) -> None:
        count = self.dropped - self._reported
        if count and self._write_line(self._encoded(self._dropped_line(count))):
            self._reported += count

    def _encoded(self, text: str) -> bytes:
        return f"{text}\n".encode(self._encoding, "backslashreplace")

    def _next(self) -> bytes | None:
        """Wait for a line; None when it is closed and none is left."""
        with self._changed:
            while not self._queue:
                if self._is_closed:
                    return None
                self._changed.wait()
            line = self._queue.popleft()
            self._queued -= len(line)
            return line

    def _write_line(self, line: bytes) -> bool:
        """Write a line, and say whether all of it was."""
        if self._is_amid_line:
            line = b"\n" + line
        written = 0
        try:
            while written < len(line):
                count = self._write(line[written:])
                if count is None:  # another process has made the descriptor non-blocking
                    time.sleep(_RETRY)
                written += count or 0
        except OSError:
            self._is_amid_line = self._is_amid_line if not written else not line[:written].endswith(b"\n")
            return False
        self._is_amid_line = False
        return True


def write_to(stream: TextIO | None) -> Write:
    """Return what writes to ``stream`` as directly as it can be written to; without a stream, what drops everything."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if raw is not None:
        return raw.write  # type: ignore[no-any-return]  # on Windows it knows the console's own encoding

    def write(data: bytes) -> int:
        if stream is not None:
            stream.write(data.decode(stream.encoding or "utf-8", "replace"))
        return len(data)

    return write
