"""The same run twice, from the training to the submission, in folders of their own: equal byte for byte."""

import shutil


def test_two_runs_give_the_same_submission(warm, mini, few, tmp_path):
    found = []
    for name in ("one", "two"):
        runs, best = tmp_path / name / "runs", tmp_path / name / "best"
        for script in ("train.py", "predict_oof.py"):
            ended = warm.run(script, "--config", mini, "--output", runs)
            assert ended.code == 0, ended.err
        assert warm.run("ensemble_search.py", best, runs / "mini" / "mini_f0.npy").code == 0
        words = [best.with_suffix(".yml"), "--models", runs, "--data", few, "--output", tmp_path / name / "s.csv"]
        assert warm.run("ensemble_inference.py", *words).code == 0
        names = [
            "s.csv",
            "best.yml",
            *(f"runs/mini/mini_f{fold}.{kind}" for fold in (0, 1) for kind in ("safetensors", "npy")),
        ]
        files = {each: (tmp_path / name / each).read_bytes() for each in names}
        files["best.yml"] = b"\n".join(
            line for line in files["best.yml"].splitlines() if b"images_per_second" not in line
        )
        found.append(files)
    assert found[0] == found[1]
    assert len(found[0]["s.csv"].splitlines()) == 71
    shutil.rmtree(tmp_path / "one")
