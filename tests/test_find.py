"""Weights are found by name and hash; what is strange about them is refused before anything is written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from foldsmith.crypt import encrypt_file
from foldsmith.ensemble.file import Ensemble, read_ensemble
from foldsmith.errors import UserError
from foldsmith.files import sha256_file
from foldsmith.inference.ensemble import Options, run_ensemble
from foldsmith.inference.find import _decrypted, find_weights, remove_left_weights
from tests.conftest import Chain

CPU = torch.device("cpu")


def test_two_weights_of_one_name_are_refused(chain, few, tmp_path):
    blend = read_ensemble(chain.ensemble)
    first, *rest = blend.members
    twin = first.model_copy(update={"name": "twin", "sha256": ["0" * 64] * len(first.sha256)})
    members = {"members": [first, *rest, twin], "prefix_thresholds": [*blend.prefix_thresholds, 0.1]}
    with pytest.raises(UserError, match=f"two different files are called {first.weights[0]}"):
        run_ensemble(blend.model_copy(update=members), Options([chain.runs], tmp_path / "s.csv", [CPU], data_root=few))
    assert not (tmp_path / "s.csv").exists()


def without_hashes(chain: Chain) -> Ensemble:
    blend = read_ensemble(chain.ensemble)
    members = [member.model_copy(update={"sha256": []}) for member in blend.members]
    return blend.model_copy(update={"members": members})


@pytest.mark.parametrize("hashed", [True, False])
def test_different_files_of_one_weights_name_are_refused(chain, few, tmp_path, hashed):
    ensemble = read_ensemble(chain.ensemble) if hashed else without_hashes(chain)
    options = Options([chain.runs, tmp_path / "more"], tmp_path / "s.csv", [CPU], data_root=few)
    (tmp_path / "more").mkdir()
    copy = tmp_path / "more" / chain.weights("a").name
    shutil.copy(chain.weights("a"), copy)
    assert find_weights(ensemble, options.model_roots)[copy.name] == chain.weights("a"), "copies are fine"
    shutil.copy(chain.weights("a", 1), copy)
    with pytest.raises(UserError) as caught:
        run_ensemble(ensemble, options)
    assert caught.value.code == 4 and f"different files are called {copy.name}: " in str(caught.value)
    for path in (chain.weights("a"), copy):
        assert f"{path} (sha256 {sha256_file(path)[:12]}...)" in str(caught.value)
    assert not (tmp_path / "s.csv").exists()


def test_names_alone_count_where_there_are_no_hashes(chain, few, whole, tmp_path):
    options = Options([chain.runs], tmp_path / "s.csv", [CPU], data_root=few)
    run_ensemble(without_hashes(chain), options)
    assert options.output.read_bytes() == whole


def as_pth(source: Path, target: Path) -> None:
    """What a .pth holds that stands for one of our files."""
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        torch.save({"foldsmith": file.metadata()["foldsmith"], "state_dict": tensors}, target)


def test_a_pth_stands_for_weights_that_are_not_there(chain, few, whole, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for member in read_ensemble(chain.ensemble).members:
        for name in member.weights:
            source = chain.runs / member.name / name
            as_pth(source, folder / Path(name).with_suffix(".pth"))
    options = Options([folder], tmp_path / "s.csv", [CPU], data_root=few)
    run_ensemble(without_hashes(chain), options)
    assert options.output.read_bytes() == whole
    with pytest.raises(UserError, match="is not the ensemble's") as caught:
        run_ensemble(read_ensemble(chain.ensemble), options)
    assert caught.value.code == 4


class Payload:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['MARKER']}",)


def test_a_pth_with_code_in_it_is_refused(chain, few, tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", str(tmp_path / "ran"))
    folder = tmp_path / "models"
    folder.mkdir()
    for member in read_ensemble(chain.ensemble).members:
        for name in member.weights:
            torch.save(Payload(), folder / Path(name).with_suffix(".pth"))
    with pytest.raises(UserError, match="refused, because it holds more than tensors") as caught:
        run_ensemble(without_hashes(chain), Options([folder], tmp_path / "s.csv", [CPU], data_root=few))
    assert caught.value.code == 4 and not (tmp_path / "ran").exists() and not (tmp_path / "s.csv").exists()


def decrypting_process(weights: Path, then: str) -> subprocess.Popen:
    """A process that has decrypted a weights file, and says so."""
    source = (
        "import os, sys, time; from pathlib import Path; from foldsmith.inference.find import _decrypted\n"
        f"print(_decrypted(Path({str(weights)!r}), 'w.safetensors'), flush=True)\n{then}"
    )
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def test_decrypted_weights_of_a_killed_process_are_removed_by_the_next(tmp_path, monkeypatch):
    """Those of a process that lives stay, and those that are younger than a minute."""
    (tmp_path / "TMPDIR").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "TMPDIR"))
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    (tmp_path / "w.safetensors").write_bytes(b"secret")
    encrypt_file(tmp_path / "w.safetensors", tmp_path / "w.safetensors.enc", "p")
    killed = decrypting_process(tmp_path / "w.safetensors.enc", "os.kill(os.getpid(), 9)")
    left = Path(killed.communicate()[0].strip())
    assert killed.returncode == -9 and left.read_bytes() == b"secret"
    with decrypting_process(tmp_path / "w.safetensors.enc", "sys.stdin.read(); time.sleep(60)") as alive:
        held = Path(alive.stdout.readline().strip())
        remove_left_weights(tmp_path / "TMPDIR")
        assert left.exists() and held.exists(), "the one is young, the other held"
        for path in (left, held):
            os.utime(path.parent, (0, 0))
        remove_left_weights(tmp_path / "TMPDIR")
        assert not left.parent.exists() and held.read_bytes() == b"secret"
        alive.kill()
    ended = decrypting_process(tmp_path / "w.safetensors.enc", "")
    ended.communicate()
    assert list((tmp_path / "TMPDIR").iterdir()) == []


def test_weights_are_decrypted_where_files_can_not_be_locked(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    (tmp_path / "w.safetensors").write_bytes(b"secret")
    encrypt_file(tmp_path / "w.safetensors", tmp_path / "w.safetensors.enc", "p")
    assert _decrypted(tmp_path / "w.safetensors.enc", "w.safetensors").read_bytes() == b"secret"
