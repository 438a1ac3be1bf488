"""The only import of numba: how this project compiles a function.

Every kernel gets one eager signature (so calling it compiles nothing and dispatch costs a quarter of a
microsecond), is cached on disk, and takes flat uint64 arrays. Integers are uint64 throughout: numba turns
``uint64 + 1`` into a signed or a float result, so constants are np.uint64 too.

numba's own cache looks at one source file only and would serve old code after a constant of another file
changed, so the cache's directory is named after all of the sources here, and after the bounds checks.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

Word: TypeAlias = Any       # np.uint64; numpy's stubs do not follow what its operators return
Words: TypeAlias = npt.NDArray[np.uint64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

_njit: Any = numba.njit         # its stubs lack options
_cfunc: Any = numba.cfunc       # as above
_make_array: Any = arrayobj.make_array
_declare: Any = cgutils.get_or_insert_function
_config: Any = numba.config

F = TypeVar("F", bound=Callable[..., Any])

# The types that signatures are made of. One CPU's state and RAM are both flat arrays of words.
WORD: Any = numba.uint64
WORDS: Any = numba.uint64[::1]
BYTES: Any = numba.uint8[::1]
READ_ONLY_BYTES: Any = numba.types.Array(numba.types.uint8, 1, "C", readonly=True)
NOTHING: Any = numba.void


def _cache_places(here: Path) -> Iterator[Path]:
    """Yield where kernels may be kept, best first: beside the sources, at home, in the temporary directory."""
    yield here / "__pycache__"
    try:
        home = Path.home()
    except RuntimeError:
        pass  # a user without an account, as in many a container
    else:
        if home.is_absolute():
            yield home / ".cache" / "fremap"
    shared = Path(tempfile.gettempdir()) / f"fremap-kernels-{os.geteuid()}"
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        found = shared.lstat()
        # What is loaded from a cache is run: one that others made, or may write into, is none.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            yield shared


def _cache_directory() -> str:
    """Return where compiled kernels of exactly these sources are kept; "" if no place can be written."""
    here = Path(__file__).parent
    digest = hashlib.sha256(repr((numba.__version__, _config.BOUNDSCHECK)).encode())
    for source in sorted(here.glob("*.py")):
        digest.update(source.read_bytes())
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    for place in [Path(chosen)] if chosen else _cache_places(here):
        directory = place / f"kernels-{digest.hexdigest()[:16]}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return str(directory)
    return ""


_CACHE_DIRECTORY = _cache_directory()


def kernel(result: Any, *arguments: Any, inline: bool = False) -> Callable[[F], F]:
    """Compile the decorated function at import for these argument types (or take it from the cache).

    With `inline` LLVM puts it into its callers. Kernels allocate nothing, so they do without numba's
    reference counts, which would cost two atomic operations for every array at every call (a load that
    misses the front took 50 ns with them, 15 without). They release the interpreter's lock.
    """
    signature = result(*arguments)

    def decorate(function: F) -> F:
        before = _config.CACHE_DIR
        _config.CACHE_DIR = _CACHE_DIRECTORY or before
        try:
            compiled: F = _njit(
                signature,
                cache=bool(_CACHE_DIRECTORY),
                error_model="numpy",
                nogil=True,
                forceinline=inline,
                _nrt=False,
            )(function)
        finally:
            _config.CACHE_DIR = before
        return compiled

    return decorate


@intrinsic
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001 - numba's own interface
    """Ask the host for the cache line of ``array[index]``; nothing else happens. The index is not checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = _make_array(signature.args[0])(context, builder, value=arguments[0])
        bytes_pointer = ir.IntType(8).as_pointer()
        address = builder.bitcast(builder.gep(words.data, [arguments[1]]), bytes_pointer)
        number = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [bytes_pointer, number, number, number])
        function = _declare(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.void(array, index), generate


prefetch: Any = _prefetch       # its type is numba's affair


# Below: for code that the host's kernel calls, or that calls the host's C library, on raw addresses.

INT: Any = numba.int32


@intrinsic
def _peek(typing_context: Any, address: Any) -> Any:  # noqa: ARG001 - numba's own interface
    """Read the word at a host address, an aligned uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001 - as above
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return numba.uint64(numba.uint64), generate


@intrinsic
def _poke(typing_context: Any, address: Any, value: Any) -> Any:  # noqa: ARG001 - as above
    """Write a word to a host address, an aligned uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001 - as above
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return numba.void(numba.uint64, numba.uint64), generate


peek: Any = _peek
poke: Any = _poke


def libc_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of the C library that kernels may call."""
    return numba.types.ExternalFunction(name, result(*arguments))


def callback(function: F, result: Any, *arguments: Any) -> Any:
    """Compile a function for C to call, such as a signal handler; its field `address` says where it lies.

    It must not allocate, raise or touch Python: what it knows are numbers that were constants when it was compiled.
    """
    return _cfunc(result(*arguments), nopython=True, error_model="numpy")(function)


def pure(function: F) -> F:
    """Return the plain Python function behind a kernel; a plain function comes back as it is."""
    plain: F = getattr(function, "py_func", function)
    return plain
