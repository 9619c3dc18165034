"""Pickles whose tensors stand beside Python objects, read without making one of them.

Trainers put into their checkpoints whatever their settings, counters and callbacks are. Here the opcodes are followed
by a machine of our own, which calls nothing and imports nothing: tensors become outlines, dictionaries and lists are
themselves, and everything else is an inert `Foreign`, whatever is called, built, set or appended. A file that names
something that can run programs is refused all the same: nothing harmless needs it.
"""

from __future__ import annotations

import builtins
import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

STORAGES = {"Float": 4, "Half": 2, "BFloat16": 2, "Double": 8, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
            "Bool": 1}  # bytes of an element  # fmt: skip
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")  # one byte an element, in storages without a kind
UNTYPED = "Untyped"
# How problems begin.
OBJECTS = "it holds Python objects beside its tensors"
ONLY_OBJECTS = "it holds Python objects and no tensor"
MOST_AXES = 16
MOST_OPCODES = 500_000  # a tensor takes about 25, each of the others that stay some tens of bytes of memory
MOST_NAMES = 5  # of objects, that are remembered
# Bytes of an element in storages that no adapter has; old files have to be counted through.
WIDTHS = {**STORAGES, UNTYPED: 1, "ComplexHalf": 4, "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1,
          "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}  # fmt: skip
# Modules, by the first part of their names, and functions that can run programs or reach beyond the process.
_DANGEROUS = (
    "_ctypes _io _operator _pickle _posixsubprocess _socket _winapi aiohttp asyncio bdb cProfile cffi cloudpickle code "
    "codeop commands ctypes dill distutils doctest ensurepip ftplib http httplib idlelib imp importlib io lib2to3 "
    "marshal mmap msvcrt multiprocessing nt operator os pdb pickle pip pkg_resources pkgutil popen2 posix pty pydoc "
    "requests runpy setuptools shelve shutil signal smtplib socket socketserver ssl subprocess sys telnetlib timeit "
    "urllib urllib2 venv webbrowser winreg xmlrpc zipapp zipimport"
)
DANGEROUS = frozenset(_DANGEROUS.split())
_DANGEROUS_WITHIN = (
    "torch.load torch.save torch.hub torch.jit torch.ops torch.classes torch.compile torch.serialization torch.package "
    "torch._dynamo torch._inductor torch.utils.cpp_extension torch.utils.bottleneck torch.utils.collect_env "
    "torch.utils.model_zoo torch.multiprocessing numpy.load numpy.save numpy.fromfile numpy.f2py numpy.testing "
    "numpy.distutils types.CodeType types.FunctionType"
)
DANGEROUS_WITHIN = tuple(_DANGEROUS_WITHIN.split())
HARMLESS_WITHIN = (
    "io.BytesIO", "io.StringIO", "_io.BytesIO", "_io.StringIO", "operator.itemgetter", "_operator.itemgetter",
    "torch.serialization._get_layout",
)  # fmt: skip
BUILTINS = ("builtins", "__builtin__")
TENSORS = {f"torch._utils.{name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")}
WRAPPED = {f"torch._utils.{name}" for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")}
TYPED = {f"torch.{where}.{name}" for where in ("_tensor", "tensor") for name in ("_rebuild_from_type",
         "_rebuild_from_type_v2")}  # fmt: skip
DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}


REBUILDERS = {f"{module}._reconstructor" for module in ("copyreg", "copy_reg")}  # their first argument is the class


class RefusedError(Exception):
    """Why a pickle is not read."""


class Outline(NamedTuple):
    """Stands where a tensor is. A tuple: nothing that a pickle does to objects can change it."""

    kind: str  # a key of STORAGES, or one of FLOAT8
    shape: tuple[int, ...]
    # Where it lies, in elements, and in which storage: for those that torch does not read.
    offset: int = 0
    stride: tuple[int, ...] = ()
    key: str = ""


class Storage(NamedTuple):
    """Stands where the memory of tensors is."""

    kind: str  # a key of STORAGES, or UNTYPED
    elements: int  # elements; bytes of an untyped one
    key: str = ""
    first: int = 0  # element, where it is a part of a storage


class Global(NamedTuple):
    """Stands for a class, a function or a dtype; nothing is imported."""

    path: str  # module and name, joined by a dot


class Foreign(dict[Any, Any]):
    """Stands where an object is, with the entries that were set in it, if any."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


class Machine:
    """Follows the opcodes of pickles.

    Attributes:
        storages: key -> (kind, elements), of all that were named. objects: paths of the first foreign classes.
        odd: whether other readers should not be given it: a dictionary has tuples of tuples for keys, whose hash takes
            2^n steps for n of them in each other, or something that is no dictionary or list is set or appended to.
    """

    def __init__(self) -> None:
        self.storages: dict[str, tuple[str, int]] = {}
        self.objects: list[str] = []
        self.odd = False
        self._steps = 0

    def run(self, stream: BinaryIO) -> Any:
        """The content of one pickle, whose end the stream then stands at.

        Raises:
            RefusedError: an opcode or a name that is not read. pickles.DAMAGE: a damaged pickle.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self._steps += 1
            if self._steps > MOST_OPCODES:
                raise RefusedError(f"{OBJECTS} ({', '.join(self.objects) or 'very many'}), too many to look through")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise EOFError("no end of the pickle")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            # Bytes are images and states of generators: not kept.
            self._stack.append(b"" if isinstance(argument, (bytes, bytearray)) else argument)
        elif name in _TUPLES:
            self._stack.append(tuple(self._take(_TUPLES[name])))
        elif method := _STEPS.get(name):
            method(self, argument)
        elif name not in _NOTHING:
            raise RefusedError(f"its pickle uses the opcode {name}")

    def _take(self, count: int) -> list[Any]:
        """The last values, off the stack."""
        if count > len(self._stack) - (self._marks[-1] if self._marks else 0):
            raise EOFError("a pickle that takes more than it has")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        """The values since the last mark, off the stack with it."""
        place = self._marks.pop()
        taken = self._stack[place:]
        del self._stack[place:]
        return taken

    def _named(self, path: str) -> Global:
        if _is_dangerous(path):
            raise RefusedError(f"{OBJECTS} ({path[:120]!r}), which are not read")
        return Global(path)

    def _foreign(self, made_of: Any) -> Foreign:
        path = made_of.path if isinstance(made_of, (Global, Foreign)) else "object"
        if path not in self.objects and len(self.objects) < MOST_NAMES:
            self.objects.append(path[:120])
        return Foreign(path)

    def _call(self, function: Any, arguments: Any) -> Any:
        path = function.path if isinstance(function, Global) else ""
        arguments = arguments if isinstance(arguments, tuple) else ()
        first = arguments[0] if arguments else None
        if path in DICTIONARIES:
            return dict(self._pairs(first))
        if path in TENSORS:
            return self._tensor(path, *arguments)
        if path in WRAPPED:
            return first
        if path in TYPED and len(arguments) > 2:
            return self._call(first, arguments[2])
        if path.endswith(".getattr") and not _is_member(arguments):
            raise RefusedError(f"{OBJECTS} ({path!r}), which are not read")
        return self._foreign(first if path.endswith(".getattr") or path in REBUILDERS else function)

    def _tensor(self, path: str, storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Any:
        kind = storage.kind if isinstance(storage, Storage) else ""
        if kind == UNTYPED:
            dtype = more[2].path if path.endswith("_v3") and len(more) > 2 and isinstance(more[2], Global) else ""
            kind = dtype.removeprefix("torch.")
        if kind not in STORAGES and kind not in FLOAT8:
            return self._foreign(Global(f"a tensor of {storage.path if isinstance(storage, Foreign) else kind}"))
        whole = shaped(kind, offset, shape)
        steps = stride if isinstance(stride, tuple) else ()
        if len(steps) != len(shape) or any(type(n) is not int or not 0 <= n < 2**40 for n in steps):
            raise ValueError("a tensor of an impossible stride")
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        if 0 not in shape and last >= storage.elements:
            raise ValueError(f"a tensor beyond its storage {storage.key[:40]}")
        return whole._replace(offset=storage.first + offset, stride=steps, key=storage.key)

    def _persistent(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[0] == "module":  # a whole network: its class
            return pid[1]
        label, named, key, _, count, *view = pid
        place = named.path.rpartition(".") if isinstance(named, Global) else ("", "", "")
        kind = place[2].removesuffix("Storage")
        sound = label == "storage" and type(key) in (str, int) and type(count) is int
        if not sound or not 0 <= count < 2**40:
            raise ValueError("a storage of an impossible size")
        if kind not in WIDTHS or place[0] not in ("torch", "torch.cuda", "torch.storage"):
            return self._foreign(named)
        if self.storages.setdefault(str(key), (kind, count)) != (kind, count):
            raise ValueError(f"storage {str(key)[:40]} is of two sizes")
        first, elements = view[0][1:3] if view and isinstance(view[0], tuple) else (0, count)
        if not (type(first) is int and type(elements) is int and 0 <= first <= first + elements <= count):
            raise ValueError(f"storage {str(key)[:40]} is seen beyond its end")
        return Storage(kind, elements, str(key), first)

    def _entries(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Entries that can be a tensor's; the keys of others are not even hashed."""
        for key, value in pairs:
            if type(key) in (str, int):
                yield key, value
            elif isinstance(key, tuple) and not isinstance(key, Global):
                self.odd |= any(isinstance(one, tuple) for one in key)

    def _pairs(self, first: Any) -> Iterator[tuple[Any, Any]]:
        """The entries that a dictionary is made from: those of another, or a list of pairs."""
        if isinstance(first, dict):
            return self._entries(first.items())
        pairs = first if isinstance(first, (list, tuple)) else ()
        return self._entries((one[0], one[1]) for one in pairs if isinstance(one, (list, tuple)) and len(one) == 2)

    # One method an opcode, or several of one kind.

    def _dictionary(self, _: Any) -> None:
        values = self._marked()
        self._stack.append(dict(self._entries(zip(values[::2], values[1::2], strict=True))))

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):  # Python's reader takes the mark, too
            self._marks.pop()
        else:
            self._take(1)

    def _put(self, place: Any) -> None:
        self._memo[place] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, place: Any) -> None:
        self._stack.append(self._memo[place])

    def _global(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._named(f"{module}.{name}"))

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is none")
        self._stack.append(self._named(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        self._stack.append(self._call(*self._take(2)))

    def _new_with_words(self, _: Any) -> None:
        self._stack.append(self._foreign(self._take(3)[0]))

    def _object(self, _: Any) -> None:
        first, *rest = self._marked()
        self._stack.append(self._call(first, tuple(rest)))

    def _instance(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._call(self._named(f"{module}.{name}"), tuple(self._marked())))

    def _persistent_id(self, _: Any) -> None:
        self._stack.append(self._persistent(self._take(1)[0]))

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(self._entries(zip(values[::2], values[1::2], strict=True)))
        else:
            self.odd = True

    def _append(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)
        else:
            self.odd = True

    def _build(self, _: Any) -> None:
        self._take(1)
        self.odd |= not isinstance(self._stack[-1], dict)


def shaped(kind: str, offset: int, shape: tuple[int, ...]) -> Outline:
    """The outline of a tensor, or ValueError where its sizes are none."""
    if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
        raise ValueError("a tensor without a shape")
    if any(type(n) is not int or not 0 <= n < 2**40 for n in (offset, *shape)):
        raise ValueError("a tensor of an impossible size")
    return Outline(kind, shape)


def _is_dangerous(path: str) -> bool:
    module, _, name = path.partition(".")
    if any(path == one or path.startswith(f"{one}.") for one in HARMLESS_WITHIN):
        return False
    if module in BUILTINS:  # its classes do nothing as long as nothing is made of them; Python 2 had some more
        known = isinstance(getattr(builtins, name, None), type) or name in ("unicode", "long", "xrange", "basestring")
        return not known and name not in ("getattr", "Ellipsis", "NotImplemented")
    return module in DANGEROUS or any(path == one or path.startswith(f"{one}.") for one in DANGEROUS_WITHIN)


def _is_member(arguments: tuple[Any, ...]) -> bool:
    """Whether getattr is asked for an enumeration's member or a class within a class, as pickle writes them."""
    if len(arguments) != 2 or not isinstance(arguments[0], (Global, Foreign)):
        return False
    name = arguments[1]
    return isinstance(name, str) and name.isidentifier() and not name.startswith("__")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "EMPTY_SET": lambda: None,
}  # fmt: skip
_VALUE_OPCODES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_VALUES = frozenset(_VALUE_OPCODES.split())
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = ("PROTO", "FRAME")
_STEPS: dict[str, Any] = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": lambda self, _: self._marked(),
    "DUP": lambda self, _: self._stack.append(self._stack[-1]),
    "PUT": Machine._put, "BINPUT": Machine._put, "LONG_BINPUT": Machine._put, "MEMOIZE": Machine._memoize,
    "GET": Machine._get, "BINGET": Machine._get, "LONG_BINGET": Machine._get,
    "TUPLE": lambda self, _: self._stack.append(tuple(self._marked())),
    "LIST": lambda self, _: self._stack.append(self._marked()),
    "DICT": Machine._dictionary,
    "FROZENSET": lambda self, _: self._stack.append(self._marked()[:0]),
    "SETITEM": lambda self, _: self._set(self._take(2)), "SETITEMS": lambda self, _: self._set(self._marked()),
    "APPEND": lambda self, _: self._append(self._take(1)), "APPENDS": lambda self, _: self._append(self._marked()),
    "ADDITEMS": lambda self, _: self._marked(),
    "BUILD": Machine._build,
    "GLOBAL": Machine._global, "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce, "NEWOBJ": Machine._reduce, "NEWOBJ_EX": Machine._new_with_words,
    "OBJ": Machine._object, "INST": Machine._instance, "BINPERSID": Machine._persistent_id,
}  # fmt: skip
