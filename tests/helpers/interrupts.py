"""An operating system that stops a program at a chosen call."""

import os

SYSTEM_CALLS = ("open", "fsync", "fstat", "replace", "unlink", "listdir", "close", "link")


class InterruptedOS:
    """`os` whose calls are counted; before or after the chosen one comes an exception."""

    def __init__(self, chosen=None, exception=KeyboardInterrupt, after=False):
        self.chosen, self.exception, self.after, self.calls = chosen, exception, after, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in SYSTEM_CALLS:
            return real

        def call(*args, **options):
            self.calls += 1
            here = self.calls - 1 == self.chosen
            if here and not self.after:
                raise self.exception
            try:
                return real(*args, **options)
            finally:
                if here:
                    raise self.exception

        return call
