"""A command on a disk that is full at its first, second ... write, and the list of all writes of the program."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foldsmith.models.weights import read_header
from tests.conftest import ROOT
from tests.faults.warm import Ended, Warm

ROOM = re.compile(
    r"^error: (\S+): could not be written: .*; it needs about [0-9.]+ (?:MB|bytes), [0-9.]+ MB are free\n"
    r"  hint: free some space, or name another folder; what stood there before is as it was$",
    re.MULTILINE,
)
WRITERS = {
    "atomic_path",
    "write_bytes",
    "write_text",
    "write_array",
    "write_figure",
    "write_json",
    "append_text",
    "append_bytes",
}

# Every function of the program that writes, by the test that fills the disk there. Each test compares what it has met.
SITES: dict[str, set[str]] = {
    "training": {
        "training/folder.py:open_run",
        "data/folds.py:load_folds",
        "training/records.py:write_metrics",
        "training/checkpoints.py:save_checkpoint",
        "models/weights.py:save_weights",
        "training/records.py:draw_curves",
    },
    "logs": {"training/job.py:say", "training/records.py:append_timing"},
    "tensorboard": {"training/loggers.py:_append"},
    "profile": {"training/profiling.py:finish"},
    "smoke": {"training/smoke.py:_sample_rows"},
    "memory": {"training/recovery.py:_halve"},
    "cache": {"data/cache.py:on_disk"},
    "oof": {"training/oof.py:predict_oof", "data/oof_files.py:write_oof"},
    "search": {"ensemble/file.py:write_ensemble", "ensemble/pictures.py:draw"},
    "inference": {"inference/submission.py:_write", "inference/parts.py:save", "inference/parts.py:save_bad"},
    "kept predictions": {"inference/predictions.py:save_predictions"},
    "kernel": {"kernel/command.py:run_deploy", "kernel/upload.py:stage_weights", "kernel/upload.py:_copy"},
    "folds": {"data/folds.py:load_folds", "data/fold_quality.py:write_report"},
    "lr-find": {"training/lr_find.py:draw_rates"},
    "encrypt": {"crypt.py:encrypt_file"},
    "decrypt": {"crypt.py:decrypt_file"},
    "preview": {"report/preview.py:_write"},
    "report": {"report/page.py:write_page"},
    "label-issues": {"report/noise.py:write_issues"},
    "pseudo-label": {"pseudo_label.py:_write"},
    "check-data": {"data/survey.py:write_groups", "config/starter.py:write_starter"},
    "new": {"config/starter.py:write_starter"},
    "schema": {"tools/schema.py:run"},
    "convert-config": {"convert.py:convert_config"},
    "demo-weights": {"demo_weights.py:convert"},
    "doctor": {"doctor.py:_tiny_competition"},
    "demo": {"demo.py:_prove_kernel"},
}


def call_sites() -> set[str]:
    """Every function of the package that calls a writer of files.py, as `path:function`."""
    found = set()
    for path in (ROOT / "src" / "foldsmith").rglob("*.py"):
        if path.name == "files.py":
            continue
        stack: list[tuple[ast.AST, str]] = [(ast.parse(path.read_text(encoding="utf-8")), "<module>")]
        while stack:
            node, function = stack.pop()
            # Path has a write_text, too; test_source.py looks after that
            if isinstance(node, ast.Call) and ast.unparse(node.func).removeprefix("files.") in WRITERS:
                found.add(f"{path.relative_to(ROOT / 'src' / 'foldsmith')}:{function}")
            inner = node.name if isinstance(node, ast.FunctionDef) else function
            stack += [(child, inner) for child in ast.iter_child_nodes(node)]
    return found


def files(folder: Path) -> dict[str, bytes]:
    """All files but logs, which grow."""
    names = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("train.log", "timings.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def full_at(
    warm: Warm,
    count: int,
    script: str,
    words: list[object],
    place: str = "write.opened",
    before: str = "",
    **options: Any,
) -> tuple[Ended, str]:
    """Run a command whose n-th write finds the disk full; returns how it ended, and the function that wrote.

    Args:
        place: the failpoint of the writes that are counted.
        before: rules of other failpoints, each with a comma behind it.
    """
    record = warm.folder / "writes"
    record.unlink(missing_ok=True)
    hook = ("full_disk", str(record), place)
    ended = warm.run(script, *words, fail=f"{before}{place}:{count}:full", hook=hook, timeout=30, **options)
    sites = record.read_text().splitlines() if record.exists() else []
    assert len(sites) >= count or ended.code == 0, (sites, ended.err)
    return ended, sites[count - 1] if len(sites) >= count else ""


def full_at_every_write(
    warm: Warm,
    script: str,
    words: list[object],
    folder: Path,
    prepare: Callable[[], object],
    last: int = 100,
    **options: Any,
) -> list[str]:
    """Let a command fail at its 1st, 2nd ... write until there is none more; returns the functions that wrote.

    Args:
        folder: what it writes into.
        prepare: makes the folder as it is before the command.
        last: where what follows takes long and is the matter of another test.
    """
    sites: list[str] = []
    while len(sites) < last:
        shutil.rmtree(folder, ignore_errors=True)
        prepare()
        before = files(folder)
        ended, site = full_at(warm, len(sites) + 1, script, words, **options)
        if not site:
            assert sites and ended.code == 0, ended.err
            return sites
        sites.append(site)
        assert ended.code == 3, (site, ended.err)
        refused = ROOM.search(ended.err)
        assert refused, (site, ended.err)
        path, after = Path(refused[1]), files(folder)
        assert not [name for name in after if name.endswith(".tmp")], site
        name = str(path.relative_to(folder)) if path.is_relative_to(folder) else ""
        if name in before:
            assert after[name] == before[name], "the old file is as it was"
        elif name in after:  # the same command wrote it once before
            assert name.endswith(("best.safetensors", "last.ckpt", "metrics.csv")), name
            assert not name.endswith(".safetensors") or read_header(path)
    return sites
