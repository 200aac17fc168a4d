"""A real terminal (a pty) for tests, whose other side reads what arrives, byte for byte."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import threading
import tty
from collections.abc import Callable

Terminal = Callable[..., tuple[int, str]]


class Screen:
    """A terminal of `columns`, and all that was ever written to it."""

    def __init__(self, columns: int) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.received = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.received += os.read(self.master, 65536)
            except OSError:  # the last writer has closed it
                return

    def close(self) -> str:
        os.close(self.slave)
        self.reader.join(10)
        os.close(self.master)
        return self.received.decode()
