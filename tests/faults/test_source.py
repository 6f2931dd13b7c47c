"""A static check of the program's source: nothing that reads or runs untrusted things, every write atomic."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.source_check import ALLOWED, findings

SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted(ROOT.glob("*.py"))]


def test_the_source_has_no_findings():
    found = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT)).removeprefix("src/foldsmith/")
        found += findings(name, path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(("name", "function"), ALLOWED)
def test_every_exception_is_still_needed(name, function, monkeypatch):
    source = (ROOT / "src" / "foldsmith" / name).read_text(encoding="utf-8")
    assert findings(name, source) == []
    monkeypatch.delitem(ALLOWED, (name, function))
    assert findings(name, source) != []


def test_nothing_of_the_package_is_left_out():
    assert len(SOURCES) > 100 and Path("src/foldsmith/files.py").resolve() in {path.resolve() for path in SOURCES}


def test_one_place_reads_pickles():
    """Where they are followed first (models/pickles.py)."""
    assert [path.name for path in SOURCES if "torch.load(" in path.read_text(encoding="utf-8")] == ["pickles.py"]


BAD = """\
import posix; posix.system(word)
import os; os.__dict__["system"](word)
import os; vars(os)["system"](word)
import tempfile; tempfile._os.system(word)
import os.path; os.path.os.system(word)
import os; getattr(os, name)(word)
import builtins; getattr(builtins, "ev" + "al")(text)
import os; os.__getattribute__("system")(word)
import pandas as pd; pd.eval(text)
import timeit; timeit.timeit(text)
import cProfile; cProfile.run(text)
class L(yaml.CUnsafeLoader): pass
yaml.CLoader(text).get_single_data()
from ruamel.yaml import YAML; YAML(typ="unsafe").load(text)
import numpy as np; np.lib.npyio.NpzFile(file, allow_pickle=True)
from multiprocessing.reduction import ForkingPickler; ForkingPickler.loads(data)
import torch; torch.serialization._legacy_load(file, None, pickle_module=None)
import torch; torch.ops.load_library(path)
open(*(path, "w"))
open(path, **{"mode": "w"})
import io; io.FileIO(path, "w")
import os; os.write(file, data)
import os; os.pwrite(file, data, 0)
import posix; posix.open(path, flags)
from safetensors import serialize_file; serialize_file(tensors, path)
import logging; logging.basicConfig(filename=path)
import logging.handlers; logging.handlers.RotatingFileHandler(path)
import zipfile; zipfile.ZipFile(path).extract(name, folder)
import tarfile; tarfile.open(path).extract(name)
import shutil; shutil.unpack_archive(path, folder)
import mmap; mmap.mmap(3, 10)
import dbm; dbm.open(path, "c")
import fileinput; fileinput.input(path, inplace=True)
with atomic_path(path, 1) as temporary: shutil.copy(temporary, other)
table.write_csv(path)
torch.load(path)
torch.load(path, weights_only=False)
torch.load(path, weights_only=flag)
import torch as t; t.load(path)
from torch import load; load(path)
import numpy as np; np.load(path)
import numpy as np; np.load(path, allow_pickle=True)
from numpy import load as read; read(path)
import numpy.lib.format as f; f.read_array(file)
yaml.load(text, Loader=yaml.FullLoader)
from yaml import load; load(text, Loader=x)
import yaml as y; y.unsafe_load(text)
yaml.load_all(text)
import pickle; pickle.loads(data)
import pickle; pickle.load(file)
import pickle as p; p.loads(data)
from pickle import loads; loads(data)
from pickle import loads as f; f(data)
from pickle import Unpickler; Unpickler(file).load()
import pickle; read = pickle.loads
import pickle; list(map(pickle.loads, parts))
from pickle import *
import dill; dill.load(file)
from joblib import load; load(path)
import marshal; marshal.loads(data)
import pandas; pandas.read_pickle(path)
frame.read_pickle(path)
torch.jit.load(path)
torch.serialization.add_safe_globals([x])
eval(text)
exec(text)
run = eval
import builtins; builtins.eval(text)
getattr(os, 'system')(text)
import os; os.system(text)
from os import system; system(text)
from os import system as s; s(text)
import os as o; o.popen(text)
subprocess.run(words, shell=True)
subprocess.run(words, shell=flag)
import subprocess as s; s.Popen(text, shell=True)
subprocess.run(words, **options)
subprocess.getoutput(text)
import importlib; importlib.import_module(name)
from importlib import import_module; import_module(name)
loader.exec_module(module)
archive.extractall(folder)
open(path, 'w').write('x')
open(path, 'a')
open(path, mode='wb')
open(path, how)
open(path, 'r+')
import io; io.open(path, 'w')
from os import fdopen; fdopen(handle, 'w')
import os; os.open(path, os.O_WRONLY)
import os; os.open(path, os.O_RDONLY | os.O_CREAT)
import os; os.open(path, flags)
path.open('a')
path.open(mode='w')
path.write_text('x')
path.write_bytes(data)
path.touch()
path.replace(other)
path.rename(other)
path.symlink_to(other)
import os; os.replace(a, b)
from os import rename; rename(a, b)
import numpy as np; np.save(path, array)
import numpy as np; np.savez(path, a=array)
import numpy as np; np.savez_compressed(path, a=array)
import numpy as np; np.savetxt(path, array)
import numpy as np; np.memmap(path, mode='w+', shape=shape)
import numpy as np; np.memmap(path, shape=shape)
from numpy import save; save(path, array)
array.tofile(path)
torch.save(content, path)
from torch import save as keep; keep(content, path)
import safetensors.torch; safetensors.torch.save_file(tensors, path)
from safetensors.torch import save_file; save_file(tensors, path)
import json; json.dump(value, file)
import yaml; yaml.safe_dump(value, file)
import pickle; pickle.dump(value, file)
import cv2; cv2.imwrite(path, image)
from cv2 import imwrite; imwrite(path, image)
image.save(path)
figure.savefig(path)
import shutil; shutil.copy(a, b)
import shutil; shutil.copy2(a, b)
from shutil import copyfile; copyfile(a, b)
import shutil as s; s.copytree(a, b)
import shutil; shutil.move(a, b)
import shutil; shutil.copyfileobj(a, b)
import zipfile; zipfile.ZipFile(path, 'w')
from zipfile import ZipFile; ZipFile(path, mode='a')
import tarfile; tarfile.open(path, 'w:gz')
import gzip; gzip.open(path, 'wb')
frame.to_csv(path)
frame.to_parquet(path)
import tempfile; tempfile.NamedTemporaryFile()
import logging; logging.FileHandler(path)
import sqlite3; sqlite3.connect(path)
import torch; write = torch.save
write = path.write_text
with atomic_path(path, 1) as temporary: torch.save(content, path)
with atomic_path(path, 1) as temporary, open(temporary, 'wb') as file: np.save(file, array)
with atomic_path(path, 1) as temporary, open(temporary, 'wb') as file: array.tofile(file)
from numpy.lib import format; format.write_array(file, array)
with atomic_path(path, 1) as temporary: path.write_bytes(data)
with other(path) as temporary: temporary.write_bytes(data)
load = torch.load; load(path)
list(map(torch.load, paths))
import functools; functools.partial(torch.load, weights_only=False)
from torch.serialization import load; load(path)
torch.serialization.load(path)
from torch import load as read; read(path, weights_only=False)
read = np.load; read(path, allow_pickle=True)
np.lib.npyio.load(path, allow_pickle=True)
from numpy.lib.npyio import load; load(path)
list(map(np.load, paths))
opened = open; opened(path, 'w')
list(map(open, paths, 'ww'))
write = open if flag else None
import zipfile; make = zipfile.ZipFile; make(path, 'w')
subprocess.run(['sh', '-c', text])
subprocess.run(['/bin/bash', path])
subprocess.run(('/usr/bin/env', 'bash', '-c', text))
subprocess.run(text, executable='/bin/sh')
subprocess.Popen(text, -1, None, None, None, None, None, True, True)
subprocess.run(*options)
import asyncio; asyncio.create_subprocess_shell(text)
os.execvp('sh', words)
os.execv(path, words)
os.spawnlp(os.P_WAIT, name, name)
from os import execle; execle(path, name, environment)
os.posix_spawn(path, words, environment)
globals()['eval'](text)
globals()[name](text)
vars(builtins)['exec'](text)
__builtins__['eval'](text)
os.__dict__[name](text)
import sys; sys.modules['os'].system(text)
SummaryWriter(folder)
from torch.utils.tensorboard import SummaryWriter; SummaryWriter(folder)
from torch.utils import tensorboard; tensorboard.SummaryWriter(folder)
h5py.File(path, 'w')
import h5py; h5py.File(path, mode='a')
os.open(path, flags=os.O_WRONLY)
os.open(path, mode=0o600, flags=os.O_CREAT)
os.open(*arguments)
"""
GOOD = """\
os.open(path, flags=os.O_RDONLY)
import zipfile; name: zipfile.ZipFile
def read(archive: zipfile.ZipFile | None) -> None: pass
subprocess.run([sys.executable, path], stdout=subprocess.PIPE)
import h5py; h5py.File(path)
TABLE[name](values)
torch.load(path, map_location='cpu', weights_only=True)
import numpy as np; np.load(path, mmap_mode='r', allow_pickle=False)
import numpy as np; np.memmap(path, mode='r')
import re; re.compile(text)
network.eval()
import torch; torch.compile(network)
import pickle; isinstance(error, pickle.UnpicklingError)
import yaml; yaml.compose(text, Loader=MyLoader)
import yaml; yaml.dump(value, Dumper=MyDumper)
import json; json.dumps(value)
subprocess.run(words, check=True)
open(path).read()
open(path, 'rb')
path.open()
os.open(path, os.O_RDONLY)
import zipfile; zipfile.ZipFile(path)
text.replace('a', 'b')
dataclasses.replace(value, key=1)
frame.rename(columns=names)
with atomic_path(path, 1) as temporary: torch.save(content, temporary)
with files.atomic_path(path, 1) as temporary: temporary.write_bytes(data)
from foldsmith.files import write_text; write_text(path, 'x')
from foldsmith import files; files.write_text(path, 'x')
"""


@pytest.mark.parametrize("line", BAD.splitlines())
def test_the_check_sees(line):
    assert findings("a.py", snippet(line)) != []


@pytest.mark.parametrize("line", GOOD.splitlines())
def test_the_check_lets_pass(line):
    assert findings("a.py", snippet(line)) == []


def snippet(line: str) -> str:
    """The usual imports, and the line as a program."""
    return "import subprocess, os, torch, yaml\nimport numpy as np\n" + line
