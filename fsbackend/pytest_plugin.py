"""A pytest fixture for other people's tests: a mount whose power can be cut and whose disk can fail.

Loaded by pytest through the entry point ``pytest11``; it imports nothing heavy until a test asks for it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fsbackend.mount import TemporaryMount


@pytest.fixture
def fremap_mount() -> "Iterator[Callable[..., TemporaryMount]]":
    """Return a function ``fremap_mount(caps="disk", inject=(), **options)`` that mounts a fresh directory.

    What it returns has ``.path``, ``.power_cut(survive="none")``, ``.inject(*rules)``, ``.unsynced()``,
    ``.stats()``, ``.kill()`` and ``.remount()``. Mounts are cleaned up after the test. Where FUSE is not
    permitted the test is skipped, with the reason.
    """
    from fsbackend.mount import MountError, check_fuse, temporary_mount  # noqa: PLC0415 - only if it is asked for

    with ExitStack() as stack:

        def make(caps: str = "disk", *, inject: Sequence[str] = (), **options: Any) -> "TemporaryMount":
            try:
                check_fuse()
            except MountError as error:
                pytest.skip(str(error))
            options.setdefault("power_cut", not caps.startswith("ramfs"))
            return stack.enter_context(temporary_mount(caps, inject=list(inject), **options))

        yield make
