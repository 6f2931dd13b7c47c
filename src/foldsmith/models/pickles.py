"""The one place that reads what torch.save wrote: walked first, so that neither code runs nor memory is taken.

`torch.load(weights_only=True)` runs no code, but it builds what the pickle asks for, `bytearray(2**31)` too, and
inflates what a zip holds compressed. Here each instruction of the pickle is followed on a stack of stand-ins before
torch sees the file. What is loaded then is no larger than the file, but for small objects, whose number is bounded.
"""

import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

MAX_PICKLE = 16_000_000  # bytes of all pickles of a file
MAX_DIRECTORY = 4_000_000  # bytes of a zip's list of records; a storage takes about 80
MAX_STEPS = 400_000  # instructions of a file, and copied items; a tensor takes about 30
MAX_DIMENSIONS = 64  # of a tensor, as in torch's own kernels
LEGACY_PICKLES = 5  # magic number, version, machine, the content, the keys of the storages that follow
STORAGES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
}  # bytes of a number
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
DTYPES += ["complex128", "complex64"]
REBUILT = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"}
COPIES = {"collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set"}  # of their argument
CALLED = REBUILT | COPIES | {"torch._utils._rebuild_parameter", "torch.Size", "torch.device"}
ITEM_SIZES = {f"{module}.{name}Storage": size for module in ("torch", "torch.cuda") for name, size in STORAGES.items()}
GLOBALS = CALLED | ITEM_SIZES.keys() | {f"torch.{name}" for name in DTYPES}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}


def load_pickle(path: Path, device: torch.device) -> Any:
    """The tensors, texts and numbers that torch.save wrote, in dicts, lists and tuples.

    Raises:
        pickle.UnpicklingError: the file asks for more than these.
        ValueError: it asks for more memory than it has bytes, or for too many steps.
        Exception: those of `foldsmith.models.weights.DAMAGED`, where it is cut or changed.
    """
    with warnings.catch_warnings(), open(path, "rb") as file:
        warnings.simplefilter("ignore")  # on the pickle protocol, from files that are about to be refused
        if file.read(4) == b"PK\x03\x04":  # by which torch tells, too
            _check_directory(file, path.stat().st_size)
            _check_zip(path)
        else:
            file.seek(0)
            _check_legacy(file, path.stat().st_size)
        return torch.load(path, map_location=device, weights_only=True)


def _check_directory(file: io.BufferedReader, size: int) -> None:
    """A zip's end as torch.save writes it, so that Python and torch find the same list of records, which is short.

    The last 22 bytes; before them, for large files, 20 bytes that say where the 56 bytes are that lie before them
    (PKWARE's APPNOTE, 4.3.14 to 4.3.16).
    """
    file.seek(max(size - 98, 0))
    end = file.read()
    listed = int.from_bytes(end[-10:-6], "little")
    agrees = end[-22:-18] == b"PK\x05\x06" and end[-2:] == b"\0\0"
    if end[-42:-38] == b"PK\x06\x07":
        agrees &= end[:4] == b"PK\x06\x06" and int.from_bytes(end[-34:-26], "little") == size - 98
        listed = int.from_bytes(end[40:48], "little")
    if not agrees or listed > MAX_DIRECTORY:
        _refuse("it does not end as torch.save ends a file, or has too many records")


def _check_zip(path: Path) -> None:
    """Records as torch.save writes them: uncompressed, side by side, each under one name, tensors as large as said."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                _refuse(f"the record {record.filename} is compressed")
        # With one at the very beginning, Python and torch count all offsets from the same byte.
        if sum(record.file_size for record in records) > path.stat().st_size or records[0].header_offset != 0:
            _refuse("its records take more room than the file has")
        if len({record.filename.lower() for record in records}) < len(records):  # torch finds them in either case
            _refuse("two of its records share a name")
        sizes = {record.filename: record.file_size for record in records}
        prefix = records[0].filename.partition("/")[0]
        if sizes[f"{prefix}/data.pkl"] > MAX_PICKLE:
            _refuse(f"its pickle takes more than {MAX_PICKLE} bytes")
        walk = Walk()
        walk.follow(io.BytesIO(archive.read(f"{prefix}/data.pkl")))
    for key, size in walk.storages.items():
        if sizes.get(f"{prefix}/data/{key}") != size:
            _refuse(f"the storage {key!r} is not of {size} bytes, as the pickle says")


def _check_legacy(file: io.BufferedReader, size: int) -> None:
    """Before release 1.6 torch.save wrote pickles one behind another, and then the numbers."""
    pickles, walk = io.BytesIO(file.read(MAX_PICKLE)), Walk()
    for number in range(LEGACY_PICKLES):
        walk.follow(pickles)
        if number == 0 and walk.result != torch.serialization.MAGIC_NUMBER:
            raise RuntimeError("Invalid magic number; corrupt file?")
    if sum(walk.storages.values()) > size:
        _refuse("its storages take more room than the file has")


def _refuse(reason: str) -> None:
    raise ValueError(reason)


class _Dict:
    """Stands for a dict of so many items."""

    def __init__(self) -> None:
        self.size = 0


class _Object(str):
    """Stands for a global, by its name, or for what calling it gave."""


class _Storage(int):
    """Stands for a storage of so many numbers."""


class Walk:
    """Follows pickles without building what they describe.

    The instructions are those of protocol 2 that torch's own unpickler of weights knows (PEP 307, pickletools).
    `storages` collects the bytes of each storage by its key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, int] = {}
        self.steps = 0
        self.result: Any = None

    def follow(self, file: io.BytesIO) -> None:
        """One pickle, from where the file stands."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        for opcode, given, _ in pickletools.genops(file):
            self._spend(1)
            name, argument = opcode.name, cast(Any, given)
            if name in LITERALS:
                self.stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name == "GLOBAL":
                self._global(argument)
            elif name in self.STEPS:
                self.STEPS[name](self)
            elif name not in ("PROTO", "STOP"):
                raise pickle.UnpicklingError(f"Unsupported operand {name}")
        self.result = self.stack.pop()

    def _spend(self, count: int) -> None:
        self.steps += count
        if self.steps > MAX_STEPS:
            _refuse(f"its pickles have more than {MAX_STEPS} steps")

    def _global(self, argument: str) -> None:
        name = argument.replace(" ", ".", 1)
        if name not in GLOBALS:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {name}")
        self.stack.append(_Object(name))

    def _popped(self, count: int) -> tuple[Any, ...]:
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise IndexError("the pickle takes more than it has given")
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return values

    def _marked(self) -> tuple[Any, ...]:
        values = self._popped(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def _append(self, values: tuple[Any, ...]) -> None:
        if not isinstance(self.stack[-1], list):
            _refuse("appends to what is no list")
        self.stack[-1].extend(values)

    def _set(self, values: tuple[Any, ...]) -> None:
        if not isinstance(self.stack[-1], _Dict) or len(values) % 2:
            _refuse("puts items into what is no dict")
        _check_keys(values[::2])
        self.stack[-1].size += len(values) // 2

    def _build(self) -> None:
        """State dicts carry `_metadata`, a dict that becomes an OrderedDict's attributes: it is copied."""
        (state,) = self._popped(1)
        if not isinstance(self.stack[-1], _Dict) or not isinstance(state, _Dict):
            _refuse("sets the state of what is no OrderedDict")
        self._spend(state.size)

    def _reduce(self) -> None:
        function, arguments = self._popped(2)
        if not isinstance(function, _Object) or function not in CALLED or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"calls {function!r:.80}")
        self.stack.append(self._called(function, arguments))

    def _called(self, function: _Object, arguments: tuple[Any, ...]) -> Any:
        if function in COPIES:
            return self._copied(*arguments, pairs=function == "collections.OrderedDict")
        if function in REBUILT:
            _check_tensor(*arguments)
        elif function == "torch.Size":
            _check_dimensions(*arguments)
        return _Object(f"{function}()")

    def _copied(self, items: Any = (), *, pairs: bool) -> _Dict:
        """An OrderedDict of no items, or of a list of pairs, as Python 2 wrote it; a Counter of a dict; a set."""
        made = _Dict()
        if isinstance(items, _Dict):
            made.size = items.size
        elif isinstance(items, list | tuple):
            made.size = len(items)
            _check_keys([first for first, _ in items] if pairs else items)
        else:
            _refuse("copies what is no list")
        self._spend(made.size)
        return made

    def _storage(self) -> None:
        """What a tensor's numbers are: ("storage", their kind, key, device, their count), and a view once."""
        ((word, kind, key, _, count, *view),) = self._popped(1)
        if word != "storage" or not isinstance(key, str) or type(count) is not int or count < 0:
            _refuse("a storage that is not described as one")
        size = ITEM_SIZES[kind] * count
        if self.storages.setdefault(key, size) != size:
            _refuse(f"the storage {key!r} is said to have two sizes")
        self.stack.append(_Storage(count if not view or view[0] is None else view[0][2]))

    STEPS: dict[str, Callable[["Walk"], None]] = {
        "MARK": lambda self: self.marks.append(len(self.stack)),
        "EMPTY_LIST": lambda self: self.stack.append([]),
        "EMPTY_DICT": lambda self: self.stack.append(_Dict()),
        "TUPLE": lambda self: self.stack.append(self._marked()),
        "TUPLE1": lambda self: self.stack.append(self._popped(1)),
        "TUPLE2": lambda self: self.stack.append(self._popped(2)),
        "TUPLE3": lambda self: self.stack.append(self._popped(3)),
        "APPEND": lambda self: self._append(self._popped(1)),
        "APPENDS": lambda self: self._append(self._marked()),
        "SETITEM": lambda self: self._set(self._popped(2)),
        "SETITEMS": lambda self: self._set(self._marked()),
        "BUILD": _build,
        "REDUCE": _reduce,
        "BINPERSID": _storage,
    }


def _check_keys(keys: Any) -> None:
    """Of dicts: hashing a tuple of tuples of tuples ... would end the process."""
    if not all(isinstance(key, str | int | float | None) for key in keys):
        _refuse("a dict has keys that are neither texts nor numbers")


def _check_dimensions(*shapes: Any) -> None:
    if not all(isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS for shape in shapes):
        _refuse(f"a tensor has no shape, or more than {MAX_DIMENSIONS} dimensions")


def _check_tensor(storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any = False, hooks: Any = None) -> None:
    """torch would make a storage larger that a tensor reaches beyond."""
    _check_dimensions(shape, stride)
    reach = offset + 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if not isinstance(storage, _Storage) or (0 not in shape and reach > storage):
        _refuse(f"a tensor of shape {shape!r:.80} reaches beyond its storage")
