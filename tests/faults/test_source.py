"""A static check of the program's source: nothing that reads or runs untrusted things, every write atomic."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted(ROOT.glob("*.py"))]

NEVER = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
NEVER |= {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "torch.hub.load"}
NEVER |= {"torch.jit.load", "joblib.load", "importlib.import_module", "__import__", "subprocess.getoutput"}
# What writes a file, by the last part of its name.
WRITERS = {"write_text", "write_bytes", "savefig", "imwrite", "save_file", "memmap", "tofile", "savez", "savetxt"}
WRITES = {"np.save", "torch.save", "json.dump", "yaml.safe_dump", "shutil.copy", "shutil.copyfile", "shutil.copytree"}
WRITES |= {"shutil.move", "os.open", "os.rename", "os.replace", "np.lib.format.write_array"}

# What writes otherwise, and why it may.
ALLOWED = {
    ("files.py", "append_text"): "logs, which grow",
    ("files.py", "atomic_path"): "the atomic writer itself",
    ("training/lock.py", "_acquire"): "the lock's file, which is no artefact",
    ("inference/decoded.py", "_in_a_nameless_file"): "decoded images in a file that has no name",
    ("data/cache.py", "in_memory"): "decoded images in memory",
    ("data/cache.py", "_building"): "the lock's file of a cache",
    ("launch/local.py", "__init__"): "what a process of the queue prints, which grows",
    ("training/distributed.py", "process_group"): "/dev/null",
    ("errors.py", "run"): "/dev/null",
    (
        "kernel/loader.py",
        "unpack",
    ): "the packed file's own beginning, before any module is there: also a new file, renamed",
    ("kernel/check.py", "run_packed"): "a copy of what a kernel wrote, for those who want to read it",
    ("kernel/sandbox.py", "main"): "what a kernel's process reports to the one that waits for it",
}


def functions(tree: ast.AST) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
    """Every node with the nodes around it, the outermost first."""
    stack: list[tuple[ast.AST, list[ast.AST]]] = [(tree, [])]
    while stack:
        node, around = stack.pop()
        yield node, around
        stack += [(child, [*around, node]) for child in ast.iter_child_nodes(node)]


def opens_to_write(call: ast.Call) -> bool:
    if ast.unparse(call.func).rpartition(".")[2] not in ("open", "fdopen"):
        return False
    if ast.unparse(call.func) == "os.open":
        return True
    modes = [each.value for each in call.keywords if each.arg == "mode"] + call.args[0 if is_method(call) else 1 :][:1]
    return any(not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+") for mode in modes)


def is_method(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and ast.unparse(call.func) not in ("os.open", "os.fdopen", "io.open")


def names_of(around: list[ast.AST]) -> set[str]:
    """What `with atomic_path(...) as name` calls the temporary file, in the blocks around a node."""
    names = set()
    for node in around:
        for item in node.items if isinstance(node, ast.With) else ():
            if isinstance(item.context_expr, ast.Call) and ast.unparse(item.context_expr.func) == "atomic_path":
                names.add(ast.unparse(item.optional_vars) if item.optional_vars else "")
    return names


def opened_in(around: list[ast.AST], names: set[str]) -> set[str]:
    """What `open(temporary, ...) as file` calls the open file."""
    found = set()
    for node in around:
        for item in node.items if isinstance(node, ast.With) else ():
            call = item.context_expr
            if isinstance(call, ast.Call) and call.args and ast.unparse(call.args[0]) in names and item.optional_vars:
                found.add(ast.unparse(item.optional_vars))
    return found


def findings(path: str, source: str) -> list[str]:
    """What the check refuses, as `path:line: what`."""
    found = []
    for node, around in functions(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for name in [module] if module else [alias.name for alias in node.names]:
                if name.split(".")[0] in ("dill", "cloudpickle", "joblib", "marshal", "shelve"):
                    found.append(f"{path}:{node.lineno}: imports {name}")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{path}:{node.lineno}: {name}"
        if name in NEVER or keywords.get("shell", "False") != "False":
            found.append(where)
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"{where} without weights_only=True")
        if name in ("np.load", "numpy.load", "np.lib.format.read_array") and keywords.get("allow_pickle") != "False":
            found.append(f"{where} without allow_pickle=False")
        writes = name in WRITES or name.rpartition(".")[2] in WRITERS or opens_to_write(node)
        if not writes or name in ("write_text", "files.write_text"):
            continue
        enclosing = next((each.name for each in reversed(around) if isinstance(each, ast.FunctionDef)), None)
        temporary = names_of([*around, node])
        targets = {ast.unparse(each) for each in [*node.args, *node.keywords, node.func]} | {
            ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        }
        if targets & (temporary | opened_in(around, temporary)) or (path, enclosing) in ALLOWED:
            continue
        found.append(f"{where} writes past atomic_path")
    return found


def test_the_source_has_no_findings():
    found = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT)).removeprefix("src/foldsmith/")
        found += findings(name, path.read_text(encoding="utf-8"))
    assert found == []


def test_every_exception_is_still_there():
    for name, function in ALLOWED:
        text = (ROOT / "src" / "foldsmith" / name).read_text()
        assert f"def {function}(" in text, (name, function)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "pickle.loads(data)",
        "pickle.load(file)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(words, shell=True)",
        "import dill",
        "from joblib import load",
        "open(path, 'w').write('x')",
        "open(path, mode='wb')",
        "open(path, how)",
        "path.open('a')",
        "path.write_text('x')",
        "path.write_bytes(data)",
        "np.save(path, array)",
        "torch.save(content, path)",
        "json.dump(value, open(path, 'w'))",
        "cv2.imwrite(path, image)",
        "figure.savefig(path)",
        "with atomic_path(path) as temporary:\n    torch.save(content, path)",
        "with atomic_path(path) as temporary, open(path, 'wb') as file:\n    np.save(file, array)",
    ],
)
def test_the_check_sees(line):
    assert findings("a.py", line) != []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path, mmap_mode='r', allow_pickle=False)",
        "open(path).read()",
        "open(path, 'rb')",
        "path.open()",
        "with atomic_path(path) as temporary:\n    torch.save(content, temporary)",
        "with atomic_path(path) as temporary, open(temporary, 'wb') as file:\n    np.save(file, array)",
        "with atomic_path(path) as temporary:\n    temporary.write_bytes(data)",
        "write_text(path, 'x')",
    ],
)
def test_the_check_lets_pass(line):
    assert findings("a.py", line) == []


def test_nothing_of_the_package_is_left_out():
    assert len(SOURCES) > 100 and Path("src/foldsmith/files.py").resolve() in {path.resolve() for path in SOURCES}
