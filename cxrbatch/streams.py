"""The standard streams of a process that was started with some of them closed."""

import os
import sys


def open_standard_streams() -> None:
    """Open the null device for each standard stream that was closed when Python started.

    Daemons and desktop launchers close them. The next files and sockets would then get the numbers
    0 to 2, and whatever prints, or gives a child process its streams, would write into them. To be
    called before a file or socket is opened that stays open.

    Raises:
        OSError: There is no null device.

    Source: POSIX.1-2017, `open`: a new descriptor has the lowest number that is free.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)  # or it would be closed again in child processes
            stream = os.fdopen(
                descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)
