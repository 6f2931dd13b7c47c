"""What a source file does that this program never does: runs or unpickles what it read, or writes past atomic_path.

Names are resolved through the file's imports (`from pickle import loads as f`, `import numpy as n`), a function counts
wherever it is named, called or not, and methods count by their name, since nobody knows their object's class here.
"""

import ast
import re
from collections.abc import Iterator

# Modules of which nothing but errors is used.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
NEVER = {"eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module"}
NEVER |= {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "code.interact"}
NEVER |= {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.Loader"}
NEVER |= {"yaml.full_load_all", "yaml.UnsafeLoader", "yaml.FullLoader", "torch.hub.load", "torch.jit.load"}
NEVER |= {"pandas.read_pickle", "torch.package.PackageImporter", "torch.serialization.add_safe_globals"}
NEVER |= {"asyncio.create_subprocess_shell", "os.startfile", "os.posix_spawn", "os.posix_spawnp"}
NEVER |= {f"os.{verb}{how}" for verb in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
NEVER |= {"yaml.CLoader", "yaml.CUnsafeLoader", "yaml.constructor.UnsafeConstructor", "ruamel.yaml.YAML"}
NEVER |= {"torch.serialization._legacy_load", "torch.ops.load_library", "multiprocessing.reduction.ForkingPickler"}
NEVER |= {"pandas.eval", "cProfile.run", "timeit.timeit", "types.FunctionType", "code.InteractiveInterpreter"}
# NumPy's ways into a file: a C library's buffer, whose last flush may fail unheard of.
NEVER |= {"numpy.save", "numpy.savez", "numpy.savez_compressed", "numpy.lib.format.write_array"}
# Modules of which nothing is asked for by a name that can't be read here.
PLAIN = {"os", "builtins", "subprocess", "shutil", "yaml", "sys", "torch.serialization"}
# Read safely only where the call says so: what must be given, wherever the function's name is found.
LOADS = {"torch.load": ("weights_only", "True"), "numpy.load": ("allow_pickle", "False")}
LOADS |= {f"numpy.lib.{name}": ("allow_pickle", "False") for name in ("format.read_array", "npyio.NpzFile")}
SAME = {"torch.serialization.load": "torch.load", "numpy.lib.npyio.load": "numpy.load"}  # by other ways to it
SAME |= {"numpy.lib._npyio_impl.load": "numpy.load", "torch.serialization.save": "torch.save"}
SAME |= {"numpy.lib._npyio_impl.save": "numpy.save"}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "csh", "fish", "cmd", "cmd.exe", "powershell", "pwsh"}
SHELL_POSITION = 8  # of `shell` among the arguments of Popen, which run() and the like pass on
NAMESPACES = {"globals()", "locals()", "vars()", "__builtins__", "builtins.__dict__", "vars(builtins)"}
NEVER_METHODS = {"exec_module", "read_pickle", "extract", "extractall", "add_safe_globals", "__getattribute__"}
NEVER_METHODS |= {"tofile"}
# Names from the standard library and others that write the file that they are given.
WRITES = {"numpy.savetxt", "numpy.lib.format.open_memmap", "torch.save", "torch.jit.save", "torch.onnx.export"}
WRITES |= {"json.dump"}
WRITES |= {"safetensors.torch.save_file", "safetensors.numpy.save_file", "safetensors.torch.save_model"}
WRITES |= {"cv2.imwrite", "cv2.imwritemulti", "cv2.VideoWriter", "cv2.FileStorage", "logging.FileHandler"}
WRITES |= {
    f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "make_archive")
}
WRITES |= {f"os.{name}" for name in ("open", "rename", "renames", "replace", "link", "symlink", "truncate", "mkfifo")}
WRITES |= {"os.write", "os.pwrite", "os.writev", "os.sendfile", "shutil.unpack_archive", "mmap.mmap", "dbm.open"}
WRITES |= {"safetensors.serialize_file", "logging.basicConfig", "fileinput.input"}
WRITES |= {f"logging.handlers.{name}FileHandler" for name in ("Rotating", "TimedRotating", "Watched")}
WRITES |= {"tempfile.NamedTemporaryFile", "tempfile.TemporaryFile", "tempfile.mkstemp", "sqlite3.connect"}
COPIES = {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copytree", "move")} | {"os.replace", "os.rename"}
# Those whose mode says whether they write: the position of the mode, and what it is where it is not given.
MODES = {
    "open": (1, "r"),
    "io.open": (1, "r"),
    "io.FileIO": (1, "r"),
    "codecs.open": (1, "r"),
    "os.fdopen": (1, "r"),
    "gzip.open": (1, "r"),
}
MODES |= {"bz2.open": (1, "r"), "lzma.open": (1, "r"), "zipfile.ZipFile": (1, "r"), "tarfile.open": (1, "r")}
MODES |= {"numpy.memmap": (2, "r+"), "gzip.GzipFile": (1, "r"), "h5py.File": (1, "r")}
EVENT_WRITERS = {"SummaryWriter", "FileWriter", "EventFileWriter"}  # of TensorBoard, which threads write
METHODS = {"write_text", "write_bytes", "savefig", "imwrite", "imsave", "save_file", "touch", "symlink_to"}
METHODS |= {"hardlink_to", "to_csv", "to_parquet", "to_json", "to_pickle", "to_hdf", "to_excel", "to_feather", "save"}
METHODS |= {
    "write_csv",
    "write_parquet",
    "write_html",
    "write_image",
    "export_chrome_trace",
    "dump",
    "savemat",
    "imwritemulti",
}
MOVES = {"replace", "rename"}  # with one argument; those of text take two, those of data classes and tables keywords

# What writes or runs all the same, and why it may.
ALLOWED = {
    ("files.py", "append_bytes"): "logs, which grow",
    ("files.py", "atomic_path"): "the atomic writer itself",
    ("files.py", "write_figure"): "into memory",
    ("files.py", "write_array"): "through a function of Python's file",
    ("training/lock.py", "_acquire"): "the lock's file, which is no artefact",
    ("training/run.py", "_finish_fold"): "the best epoch's weights, which are whole, get the fold's name",
    ("training/profiling.py", "finish"): "a file in a folder that is gone at the end, moved to the temporary one",
    ("inference/decoded.py", "_in_a_nameless_file"): "decoded images in a file that has no name",
    ("data/cache.py", "add"): "maps a file to read it",
    ("data/cache.py", "in_memory"): "decoded images in memory",
    ("data/cache.py", "_building"): "the lock's file of a cache",
    ("launch/local.py", "__init__"): "what a process of the queue prints, which grows",
    ("training/distributed.py", "process_group"): "/dev/null",
    ("errors.py", "_end_of"): "/dev/null",
    ("signals.py", "_say_and_hurry"): "to stderr",
    ("inference/supervise.py", "_tell"): "into a pipe",
    ("kernel/loader.py", "unpack"): "the packed file's own beginning, before any module is there; also renamed",
    ("kernel/check.py", "run_packed"): "a copy of what a kernel wrote, for those who want to read it",
    ("kernel/sandbox.py", "main"): "runs the user's own kernel",
    ("kernel/sandbox.py", "_report"): "tells the process that waits for it",
    ("kernel/contents.py", "_load"): "the user's own script",
    ("demo.py", "_run"): "this repository's own scripts",
    ("tools/completion.py", "_script_parsers"): "this repository's own scripts",
    ("inference/ensemble.py", "_save"): "Parts.save, which writes through atomic_path",
}


def findings(path: str, source: str) -> list[str]:
    """What the check refuses, as `path:line: what`."""
    tree = ast.parse(source)
    names, found = _imported(tree), []
    for node, around in _nodes(tree):
        enclosing = next((each.name for each in reversed(around) if isinstance(each, ast.FunctionDef)), "")
        if (path, enclosing) not in ALLOWED:
            found += [f"{path}:{node.lineno}: {what}" for what in _problems(node, around, names)]  # type: ignore[attr-defined]
    return found


def _imported(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `import numpy as np` gives {"np": "numpy"}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                names[each.asname or each.name.split(".")[0]] = each.name if each.asname else each.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                names[each.asname or each.name] = f"{node.module}.{each.name}"
    return names


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
    """Every node with the nodes around it, the outermost first."""
    stack: list[tuple[ast.AST, list[ast.AST]]] = [(tree, [])]
    while stack:
        node, around = stack.pop()
        yield node, around
        stack += [(child, [*around, node]) for child in ast.iter_child_nodes(node)]


def _resolved(node: ast.AST, names: dict[str, str]) -> str:
    """The whole dotted name of a function, by its usual one where it has several; empty for what has none.

    `getattr(os, "system")` and `sys.modules["os"].system` are os.system, `globals()["eval"]` is eval.
    """
    name = ""
    if isinstance(node, ast.Name):
        name = names.get(node.id, node.id)
    elif isinstance(node, ast.Attribute):
        name = f"{_resolved(node.value, names)}.{node.attr}"
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and isinstance(node.args[1], ast.Constant):
        name = f"{_resolved(node.args[0], names)}.{node.args[1].value}"
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and _is_namespace(node.value, names):
        name = _module_of(node.value, names) + str(node.slice.value)
    name = re.sub(r"^(?:posix|nt|.*\b_?os)\.(?=\w+$)", "os.", name.removeprefix("builtins."))
    return SAME.get(name, name)


def _module_of(node: ast.AST, names: dict[str, str]) -> str:
    """The module whose names `vars(module)` or `module.__dict__` holds, with a dot; empty for other namespaces."""
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return f"{_resolved(node.value, names)}."
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
        return f"{_resolved(node.args[0], names)}."
    return ""


def _is_namespace(node: ast.AST, names: dict[str, str]) -> bool:
    """Whether a node is a dict of everything that has a name somewhere."""
    return (
        bool(_module_of(node, names))
        or ast.unparse(node) in NAMESPACES
        or _resolved(node, names).endswith(("sys.modules", "__dict__"))
    )


def _problems(node: ast.AST, around: list[ast.AST], names: dict[str, str]) -> list[str]:
    if isinstance(node, ast.ImportFrom) and any(each.name == "*" for each in node.names):
        return [f"imports all of {node.module}"]
    if isinstance(node, ast.Call):
        return _problems_of_call(node, around, names)
    if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return []
    name = _resolved(node, names)
    is_called = isinstance(around[-1], ast.Call) and around[-1].func is node
    if name in NEVER or _is_unsafe(name):
        return [name]
    if name.rpartition(".")[2] in EVENT_WRITERS:
        return [name]
    if not is_called and (
        name in WRITES
        or name in LOADS
        or (name in MODES and not _is_type(node, around))
        or (isinstance(node, ast.Attribute) and _is_method(name, {"save", "dump"}))
    ):
        return [f"{name} under another name"]
    return []


def _is_type(node: ast.AST, around: list[ast.AST]) -> bool:
    """Whether a name stands in an annotation."""
    inner = [*around[1:], node]
    return any(
        each in (getattr(outer, "annotation", None), getattr(outer, "returns", None))
        for outer, each in zip(around, inner, strict=True)
    )


def _is_unsafe(name: str) -> bool:
    module, _, what = name.partition(".")
    return module in UNSAFE_MODULES and not what.endswith("Error") and bool(what)


def _is_method(name: str, but: frozenset[str] | set[str] = frozenset()) -> bool:
    """Whether a method's name is that of one which writes; our own functions of that name do it atomically."""
    return name.rpartition(".")[2] in METHODS - but and not name.startswith("foldsmith.files.")


def _problems_of_call(call: ast.Call, around: list[ast.AST], names: dict[str, str]) -> list[str]:
    name = _resolved(call.func, names)
    keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
    found = []
    if isinstance(call.func, ast.Attribute) and call.func.attr in NEVER_METHODS:
        found.append(name)
    if isinstance(call.func, ast.Call | ast.Subscript) and (name in NEVER or _is_unsafe(name)):
        found.append(f"{name} by its name")
    if isinstance(call.func, ast.Subscript) and not name and _is_namespace(call.func.value, names):
        found.append(f"{ast.unparse(call.func)}, whatever that is")
    if name == "getattr" and not isinstance(call.args[1], ast.Constant) and _resolved(call.args[0], names) in PLAIN:
        found.append(f"{ast.unparse(call)}, whatever that is")
    if keywords.get("shell", "False") != "False" or (name.startswith("subprocess.") and _is_shell(call, keywords)):
        found.append(f"{name} with a shell")
    if name in LOADS and keywords.get(LOADS[name][0]) != LOADS[name][1]:
        found.append(f"{name} without {'='.join(LOADS[name])}")
    if _writes(call, name) and not _into_temporary(call, around):
        found.append(f"{name} writes past atomic_path")
    return found


def _is_shell(call: ast.Call, keywords: dict[str | None, str]) -> bool:
    """Whether a function of subprocess is given a shell: as the program, by position, or in what can't be seen."""
    texts = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    hidden = None in keywords or any(isinstance(each, ast.Starred) for each in call.args)
    return hidden or len(call.args) > SHELL_POSITION or any(text.rpartition("/")[2] in SHELLS for text in texts)


def _writes(call: ast.Call, name: str) -> bool:
    if name in MODES:
        return _mode_writes(call, *MODES[name])
    if name == "os.open":
        given = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "flags")]
        flags = {each.rpartition(".")[2].strip() for node in given for each in ast.unparse(node).split("|")}
        return not flags or not flags <= {"O_RDONLY", "O_CLOEXEC", "O_DIRECTORY"}
    if name in WRITES:
        return True
    if name in ("yaml.dump", "yaml.safe_dump", "yaml.dump_all"):
        return len(call.args) > 1 or any(word.arg == "stream" for word in call.keywords)
    if not isinstance(call.func, ast.Attribute):
        return False
    if call.func.attr == "open" and name not in ("webbrowser.open",):
        return _mode_writes(call, 0, "r")
    if call.func.attr in MOVES:
        return len(call.args) == 1 and not call.keywords
    return _is_method(name)


def _mode_writes(call: ast.Call, position: int, default: str) -> bool:
    """Whether the mode of an open() writes; one that is not written there may."""
    if any(isinstance(each, ast.Starred) for each in call.args) or any(word.arg is None for word in call.keywords):
        return True
    modes = [word.value for word in call.keywords if word.arg == "mode"] + call.args[position : position + 1]
    if not modes:
        return default != "r"
    return any(not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+c")) for mode in modes)


def _into_temporary(call: ast.Call, around: list[ast.AST]) -> bool:
    """Whether a call writes to what `with atomic_path(...) as name` names, or to a file that is opened there."""
    items = [item for node in around if isinstance(node, ast.With) for item in node.items]
    targets: set[str] = set()
    for item in items:
        made = item.context_expr
        if not isinstance(made, ast.Call) or item.optional_vars is None:
            continue
        is_temporary = ast.unparse(made.func).rpartition(".")[2] == "atomic_path"
        if is_temporary or (made.args and ast.unparse(made.args[0]) in targets):
            targets.add(ast.unparse(item.optional_vars))
    first = 1 if ast.unparse(call.func) in COPIES else 0  # where they copy from does not matter
    given = [ast.unparse(each) for each in [*call.args[first:], *(word.value for word in call.keywords)]]
    if isinstance(call.func, ast.Attribute):
        given.append(ast.unparse(call.func.value))
    return bool(targets & set(given))
