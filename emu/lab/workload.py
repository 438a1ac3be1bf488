"""Workloads: Python files with one typed function, whose parameters become the options of ``fremap run``.

    def late_store(lab: Lab, *, pages: int = 4096, share: float = 0.1) -> dict[str, object]:
        '''Store after a writeback, cut the power, and count what is lost.'''

The first parameter is the laboratory. All others need a type (int, float, str, bool, Path, a Literal or an
Enum) and, unless the option shall be required, a default. What the function returns is shown and recorded.
"""

import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from emu.lab.errors import LabError

RESERVED = frozenset(
    {
        "on",
        "host",
        "rmap",
        "format",
        "ram",
        "caps",
        "seed",
        "out",
        "events",
        "proc",
        "json",
        "help",
        "fault_path",
        "io_depth",
    }
)
"""Names that ``fremap run`` itself takes."""

_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "Path": Path}
"""What the command line can read, by name."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload as found in its file; `parameters` leave out the laboratory."""

    name: str
    path: Path
    function: Callable[..., Any]
    parameters: tuple[inspect.Parameter, ...]

    @property
    def help(self) -> str:
        """Its docstring."""
        return inspect.getdoc(self.function) or f"The workload of {self.path}."

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return self.help.splitlines()[0]

    def defaults(self) -> Mapping[str, Any]:
        """Return the parameters that have a default, with it."""
        return {p.name: p.default for p in self.parameters if p.default is not p.empty}


def bundled_directories() -> list[Path]:
    """Return where the workloads that come with fremap lie: in the source tree, or as installed."""
    candidates = [
        Path(__file__).resolve().parents[2] / "scripts" / "workloads",
        Path(sys.prefix) / "share" / "fremap" / "workloads",
    ]
    return [path for path in candidates if path.is_dir()]


def bundled_names() -> list[str]:
    """Return the names of the workloads that come with fremap, sorted."""
    return sorted({path.stem for place in bundled_directories() for path in place.glob("[!_]*.py")})


def find_workload(text: str) -> Path:
    """Turn the name of a bundled workload, or a path, into the file.

    Raises
    ------
    LabError
        If there is no such file; it names the bundled ones.

    """
    path = Path(text)
    if path.is_file():
        return path
    for place in bundled_directories():
        bundled = place / f"{text.removesuffix('.py')}.py"
        if bundled.is_file():
            return bundled
    raise LabError(f"no workload {text!r}: give a Python file or one of {', '.join(bundled_names())}")


def load_workload(text: str) -> Workload:
    """Load a workload by path or bundled name.

    Raises
    ------
    LabError
        If the file cannot be loaded or holds no workload; one line, with the line number where there is one.

    """
    path = find_workload(text)
    module = _import_file(path)
    function = _choose_function(module, path)
    return Workload(function.__name__, path, function, _typed_parameters(function, path))


def _import_file(path: Path) -> ModuleType:
    name = f"fremap_workload_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LabError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses and the like look for the module of a class.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise LabError(f"{path}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        raise LabError(f"{path} does not load: {type(error).__name__}: {error}") from error
    return module


def _choose_function(module: ModuleType, path: Path) -> Callable[..., Any]:
    own = {
        name: thing
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
    }
    if path.stem in own:
        return own[path.stem]
    if len(own) == 1:
        return next(iter(own.values()))
    found = f"it has {', '.join(own)}" if own else "it has none"
    raise LabError(f"{path} needs one public function, or one named {path.stem}; {found}")


def _typed_parameters(function: Callable[..., Any], path: Path) -> tuple[inspect.Parameter, ...]:
    where = f"{path}: {function.__name__}()"
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise LabError(f"{where}: {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise LabError(f"{where} must take the laboratory first: def {function.__name__}(lab: Lab, *, ...)")
    typed = []
    for parameter in parameters[1:]:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise LabError(f"{where}: *{parameter.name} cannot become an option: name each parameter")
        if parameter.name not in hints:
            raise LabError(f"{where}: parameter {parameter.name} needs a type, such as {parameter.name}: int")
        if parameter.name in RESERVED:
            raise LabError(f"{where}: fremap run has an option --{parameter.name} itself: choose another name")
        if not _becomes_option(hints[parameter.name]):
            raise LabError(
                f"{where}: {parameter.name} cannot become an option: its type must be {', '.join(_TYPES)}, a Literal,"
                " an Enum, or a list of one of these"
            )
        typed.append(
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        )
    return tuple(typed)


def _becomes_option(hint: Any) -> bool:
    """Tell whether the command line can read values of a type; it may be annotated, optional, or a list of such."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _becomes_option(inner[0])
    if origin in {typing.Union, types.UnionType}:
        return all(one is types.NoneType or _becomes_option(one) for one in inner)
    if origin is list:
        return _becomes_option(inner[0])
    if origin is typing.Literal:
        return True
    return hint in _TYPES.values() or (isinstance(hint, type) and issubclass(hint, Enum))
