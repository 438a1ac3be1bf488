"""The only import of numba: how this project compiles a function.

Every kernel gets one eager signature (so calling it compiles nothing and dispatch costs a quarter of a
microsecond), is cached on disk, and takes flat uint64 arrays. Integers are uint64 throughout: numba turns
``uint64 + 1`` into a signed or a float result, so constants are np.uint64 too.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Word: TypeAlias = Any       # np.uint64; numpy's stubs do not follow what its operators return
Words: TypeAlias = npt.NDArray[np.uint64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

F = TypeVar("F", bound=Callable[..., Any])

# The types that signatures are made of. One CPU's state and RAM are both flat arrays of words.
WORD: Any = numba.uint64
WORDS: Any = numba.uint64[::1]
BYTES: Any = numba.uint8[::1]
READ_ONLY_BYTES: Any = numba.types.Array(numba.types.uint8, 1, "C", readonly=True)
NOTHING: Any = numba.void


def kernel(result: Any, *arguments: Any, inline: bool = False) -> Callable[[F], F]:
    """Compile the decorated function at import for these argument types (or take it from the cache).

    With `inline` LLVM puts it into its callers: an array argument costs seven machine words per call.
    Kernels release the interpreter's lock: several machines may run in several threads.
    """
    signature = result(*arguments)

    def decorate(function: F) -> F:
        compile_it = numba.njit(
            signature, cache=True, error_model="numpy", nogil=True, forceinline=inline
        )
        compiled: F = compile_it(function)
        return compiled

    return decorate


def pure(function: F) -> F:
    """Return the plain Python function behind a kernel; a plain function comes back as it is."""
    plain: F = getattr(function, "py_func", function)
    return plain
