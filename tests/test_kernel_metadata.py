"""Beside the packed file: kernel-metadata.json from `deploy:` and flags, the dataset of weights, push, no secret."""

import json
import os
import shutil
from pathlib import Path

import pytest

import deploy_kernel
from foldsmith.config import Deploy, load_config
from foldsmith.config.deploy import slugify
from foldsmith.crypt import decrypt_file
from foldsmith.ensemble.file import read_ensemble, write_ensemble
from foldsmith.errors import UserError
from foldsmith.kernel.metadata import kernel_metadata, settings
from tests.conftest import ROOT, Chain


def deploy(chain: Chain, folder: Path, *words: str) -> dict:
    """Deploy the chain's ensemble; returns kernel-metadata.json."""
    models = ["--models", str(chain.runs)]
    deploy_kernel.main(["ensemble_inference.py", str(chain.ensemble), "--output", str(folder), *models, *words])
    return json.loads((folder / "best" / "kernel-metadata.json").read_text())


def test_without_settings_the_user_is_to_be_filled_in():
    assert kernel_metadata("best", "best inference", Deploy()) == {
        "id": "INSERT_KAGGLE_USERNAME/best-inference",
        "title": "best inference",
        "code_file": "best.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "dataset_sources": [],
        "competition_sources": [],
        "kernel_sources": [],
    }
    assert kernel_metadata("a_b_train", "a_b training", Deploy(user="me"))["id"] == "me/a-b-training"
    assert kernel_metadata("best", "best inference", Deploy(id="me/my-kernel"))["title"] == "my kernel"
    with pytest.raises(UserError, match="a kernel's title has 5 to 50 characters, got 60"):
        kernel_metadata("x", "x" * 60, Deploy())


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("My best_kernel", "my-best-kernel"),
        ("  Blend: 7 models! ", "blend-7-models"),
        ("Été ß", "ete"),
        ("a--b", "a-b"),
    ],
)
def test_slugs(title, slug):
    assert slugify(title) == slug


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"title": "abcd"}, "5 to 50 characters, got 4"),
        ({"title": "!!!!!!"}, "5 to 50 characters"),
        ({"id": "kernel-alone"}, "expected user/slug (lower case, digits, hyphens) such as"),
        ({"id": "me/My Kernel"}, "such as me/my-kernel, got 'me/My Kernel'"),
        ({"id": "me/abcd"}, "5 to 50 characters, got 4"),
        ({"id": "me/my-kernel", "title": "Your kernel"}, "has the slug 'your-kernel', but id says 'my-kernel'"),
        ({"id": "me/my-kernel", "user": "you"}, "user is 'you', but id begins with 'me'"),
        ({"user": "a b"}, "expected a Kaggle user name"),
        ({"competition_sources": ["competitions/imet"]}, "expected a slug such as"),
        ({"dataset_sources": ["weights"]}, "expected user/slug"),
        ({"weights_dataset": "me/abcde"}, "a dataset's slug has 6 to 50 characters, got 5"),
        ({"titel": "x"}, "unknown key; did you mean 'title'?"),
    ],
)
def test_what_kaggle_would_refuse_is_refused_here(tmp_path, monkeypatch, values, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy.yml").write_text(json.dumps({"deploy": values}))
    with pytest.raises(UserError) as caught:
        settings(None, None, {})
    assert message in str(caught.value) and "deploy.yml:1" in str(caught.value)


def test_flags_come_before_the_section_and_that_before_deploy_yml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy.yml").write_text("deploy:\n  user: file\n  title: from file\n  machine_shape: NvidiaTeslaT4\n")
    (tmp_path / "other.yml").write_text("deploy:\n  user: other\n")
    section = Deploy(title="from section", competition_sources=["imet"])
    found = settings(None, section, {"competition_sources": ["planet"]})
    assert (found.user, found.title, found.competition_sources) == ("file", "from section", ["planet"])
    assert kernel_metadata("best", "best inference", found)["machine_shape"] == "NvidiaTeslaT4"
    assert settings(tmp_path / "other.yml", None, {}).model_dump(exclude_unset=True) == {"user": "other"}
    with pytest.raises(UserError, match="has the slug"):
        settings(None, section, {"id": "file/something-else"})


def test_flags_reach_the_file(chain, tmp_path):
    words = ["--user", "me", "--dataset", "me/weights-1", "--dataset", "you/more", "--competition", "imet-2019-fgvc6"]
    words += ["--title", "My blend", "--no-gpu", "--public", "--machine-shape", "NvidiaTeslaT4", "--internet"]
    found = deploy(chain, tmp_path, *words)
    assert found["id"] == "me/my-blend" and found["dataset_sources"] == ["me/weights-1", "you/more"]
    assert found["competition_sources"] == ["imet-2019-fgvc6"] and found["machine_shape"] == "NvidiaTeslaT4"
    assert [found["enable_gpu"], found["is_private"], found["enable_internet"]] == [False, False, True]


def test_the_section_in_an_ensemble_file_stays_when_it_is_searched_again(chain, tmp_path):
    path = tmp_path / "best.yml"
    path.write_text(chain.ensemble.read_text() + "deploy:\n  user: me\n  deadline: 45m\n")
    ensemble = read_ensemble(chain.ensemble)
    write_ensemble(path, ensemble)
    assert read_ensemble(path).deploy == Deploy(user="me", deadline="45m")
    assert path.read_text() == chain.ensemble.read_text() + "deploy:\n  user: me\n  deadline: 45m\n"
    path.write_text(chain.ensemble.read_text() + "deploy:\n  usr: me\n")
    with pytest.raises(UserError, match="deploy.usr: unknown key; did you mean 'user'"):
        read_ensemble(path)


def test_the_section_in_an_experiment_changes_nothing_about_the_experiment(tmp_path):
    (tmp_path / "a.yml").write_text(f"base: {ROOT}/configs/clipart_tiny.yml\ndeploy:\n  user: me\n")
    config, plain = load_config(tmp_path / "a.yml"), load_config(ROOT / "configs" / "clipart_tiny.yml")
    assert config.deploy == Deploy(user="me")
    assert config.model_dump(mode="json") == plain.model_dump(mode="json"), "hashes go by it"


def test_the_readme_has_three_lines(chain, tmp_path):
    deploy(chain, tmp_path, "--competition", "imet-2019-fgvc6")
    lines = (tmp_path / "best" / "README.md").read_text().splitlines()
    assert len(lines) == 3
    assert "a_f0.safetensors, a_f1.safetensors, b_f0.safetensors, b_f1.safetensors" in lines[0]
    assert "imet-2019-fgvc6" in lines[0] and f"kaggle kernels push -p {tmp_path}/best" in lines[1]


def fake_kaggle(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int) -> Path:
    """A kaggle command that notes its arguments, and what it can see of the passphrase."""
    folder.mkdir()
    program = folder / "kaggle"
    program.write_text(f'#!/bin/sh\necho "$@" "$FOLDSMITH_PASSPHRASE" > {folder}/argv\necho "{said}"\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "argv"


def test_push_calls_the_kaggle_command(chain, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "something secret")
    argv = fake_kaggle(tmp_path / "bin", monkeypatch, "Kernel version 1 successfully pushed. See https://x", 0)
    deploy(chain, tmp_path / "out", "--push", "--user", "me")
    assert argv.read_text().strip() == f"kernels push -p {tmp_path}/out/best"
    assert "Kernel version 1 successfully pushed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "code", "hint"),
    [
        ("401 - Unauthorized", 1, "sign in: put kaggle.json"),
        ("Could not find kaggle.json. Make sure it is there", 1, "sign in: put kaggle.json"),
        ("Kernel push error: Maximum weekly GPU quota of 30.00 hours reached.", 0, "push again"),
    ],
)
def test_a_push_that_failed_says_what_to_do(chain, tmp_path, monkeypatch, said, code, hint):
    fake_kaggle(tmp_path / "bin", monkeypatch, said, code)
    with pytest.raises(UserError) as caught:
        deploy(chain, tmp_path / "out", "--push", "--user", "me")
    assert caught.value.code == 3 and said in str(caught.value) and hint in str(caught.value)
    assert (tmp_path / "out" / "best" / "best.py").is_file()


def test_push_without_the_command_or_a_user(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="the kaggle command is not installed") as caught:
        deploy(chain, tmp_path / "out", "--push", "--user", "me")
    assert caught.value.code == 3 and f"kaggle kernels push -p {tmp_path}/out/best" in str(caught.value)
    with pytest.raises(UserError, match="whose kernel is it"):
        deploy(chain, tmp_path / "other", "--push")
    assert not (tmp_path / "other").exists()
    (tmp_path / "kaggle").write_text("#!/no/such/interpreter\n")
    (tmp_path / "kaggle").chmod(0o755)
    with pytest.raises(UserError, match="kaggle can't be run: No such file or directory") as caught:
        deploy(chain, tmp_path / "out", "--push", "--user", "me")
    assert caught.value.code == 3


def test_check_asks_for_the_script_before_it_packs(chain, tmp_path):
    words = ["nowhere/ensemble_inference.py", str(chain.ensemble), "--check", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"nowhere/ensemble_inference\.py: is not here, and --check runs it"):
        deploy_kernel.main(words)
    assert not (tmp_path / "out").exists()


def test_a_machine_shape_is_explained(chain, tmp_path):
    with pytest.raises(UserError, match="expected a machine shape such as NvidiaTeslaT4 .*, got 'a b'"):
        deploy(chain, tmp_path / "out", "--machine-shape", "a b")


def test_exactly_the_needed_weights_are_gathered(chain, tmp_path):
    staged = tmp_path / "staged"
    metadata = deploy(chain, tmp_path / "out", "--user", "me", "--stage-weights", str(staged))
    names = {path.name for path in chain.runs.rglob("*_f?.safetensors")}
    assert {path.name for path in staged.iterdir()} == names | {"dataset-metadata.json"}
    assert (staged / "a_f1.safetensors").read_bytes() == chain.weights("a", 1).read_bytes()
    assert json.loads((staged / "dataset-metadata.json").read_text()) == {
        "id": "me/best-inference-weights",
        "title": "best inference weights",
        "licenses": [{"name": "other"}],
    }
    assert metadata["dataset_sources"] == ["me/best-inference-weights"]
    again = ["--weights-dataset", "me/other-weights", "--dataset", "me/first", "--stage-weights", str(staged)]
    assert deploy(chain, tmp_path / "out", *again)["dataset_sources"] == ["me/first", "me/other-weights"]
    (staged / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds what the kernel does not need: notes\.txt"):
        deploy(chain, tmp_path / "out", "--user", "me", "--stage-weights", str(staged))
    with pytest.raises(UserError, match="whose dataset is it"):
        deploy(chain, tmp_path / "out", "--stage-weights", str(tmp_path / "new"))


def test_weights_that_are_not_here_can_not_be_gathered(chain, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    shutil.copy(chain.weights("a"), tmp_path / "runs")
    words = ["ensemble_inference.py", str(chain.ensemble), "--output", str(tmp_path / "out"), "--user", "me"]
    words += ["--models", str(tmp_path / "runs"), "--stage-weights", str(tmp_path / "staged")]
    with pytest.raises(UserError, match=r"not here can't be gathered: a_f1\S+, b_f0\S+, b_f1\S+$"):
        deploy_kernel.main(words)
    assert "not here, so neither their sizes nor their configs are known: a_f1" in capsys.readouterr().out
    assert not (tmp_path / "staged").exists()


def test_weights_are_gathered_encrypted(chain, tmp_path, monkeypatch):
    staged = tmp_path / "staged"
    words = ["--user", "me", "--stage-weights", str(staged), "--encrypt"]
    with pytest.raises(UserError, match="there is no passphrase"):
        deploy(chain, tmp_path / "out", *words)
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "correct horse battery")
    deploy(chain, tmp_path / "out", *words)
    assert {path.suffix for path in staged.iterdir()} == {".enc", ".json"} and len(list(staged.iterdir())) == 5
    decrypt_file(staged / "a_f0.safetensors.enc", tmp_path / "plain", "correct horse battery")
    assert (tmp_path / "plain").read_bytes() == chain.weights("a").read_bytes()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 4 + 5 + 1 and not any(b"correct horse" in path.read_bytes() for path in written)


def test_a_passphrase_gets_into_no_output(chain, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "correct horse battery")
    ensemble = tmp_path / "best.yml"
    ensemble.write_text(chain.ensemble.read_text() + "# the passphrase is correct horse battery\n")
    words = ["ensemble_inference.py", str(ensemble), "--models", str(chain.runs), "--output", str(tmp_path / "out")]
    for more in ([], ["--compress"]):
        with pytest.raises(UserError, match=r"best\.(yml|py) would hold the passphrase"):
            deploy_kernel.main([*words, *more])
    assert not (tmp_path / "out").exists()

    deploy(chain, tmp_path / "plain", "--user", "me")
    deploy(chain, tmp_path / "embedded", "--user", "me", "--embed-key")
    assert "Keep the kernel private" in capsys.readouterr().err
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and b"correct horse" in path.read_bytes()]
    assert sorted(holding) == [ensemble, tmp_path / "embedded" / "best" / "best.py"]
    with pytest.raises(UserError, match="would publish the passphrase"):
        deploy(chain, tmp_path / "out", "--embed-key", "--public")
    monkeypatch.delenv("FOLDSMITH_PASSPHRASE")
    with pytest.raises(UserError, match="needs the passphrase in FOLDSMITH_PASSPHRASE"):
        deploy(chain, tmp_path / "out", "--embed-key")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ensemble_inference.py"], "expected one ensemble file"),
        (["ensemble_inference.py", "best.yml", "--keep-predictions"], "expected one ensemble file"),
        (["ensemble_inference.py", "{best}", "--deadline", "soon"], "'soon' is no time"),
        (["ensemble_inference.py", "{best}", "--encrypt"], "goes with --stage-weights"),
        (["nothing.py"], "'nothing.py' can't be packed"),
        (["train.py", "--config", "clipart_tiny.yml", "--deadline", "1h"], "is for inference"),
        (["train.py", "--config", "clipart_tiny.yml", "--fresh"], "means nothing in a kernel"),
        (["train.py", "--config", "clipart_tiny.yml", "--set", "model.pretrained=true"], "has no network"),
        (["predict_oof.py", "--config", "clipart_tiny.yml", "--set", "train.seed=7"], "holds no weights"),
    ],
)
def test_what_can_not_be_packed(chain, tmp_path, words, message):
    words = [word.format(best=chain.ensemble) for word in words]
    with pytest.raises(UserError) as caught:
        deploy_kernel.main([*words, "--models", str(chain.runs), "--output", str(tmp_path / "out")])
    assert message in str(caught.value) and caught.value.code == 2
    assert not (tmp_path / "out").exists()
