"""The one place where an error code of the native core becomes an exception."""

from __future__ import annotations

import errno
import os

from replicator.errors import NativeError


def check(code: int, what: str, *, hint: str = "") -> None:
    """Raise NativeError unless `code` is 0; `what` says what was tried."""
    if code != 0:
        name = errno.errorcode.get(-code, str(code))
        raise NativeError(f"{what}: {os.strerror(-code)} ({name})", code=code, hint=hint)
