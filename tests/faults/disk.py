"""A command on a disk that is full at its first, second ... write, and the list of all writes of the program."""

import ast
import json
import re
from pathlib import Path
from typing import Any

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


def full_at(
    warm: Warm,
    count: int,
    script: str,
    words: list[object],
    place: str = "write.opened",
    share: str = "",
    **options: Any,
) -> tuple[Ended, str]:
    """Run a command whose n-th write finds the disk full; returns how it ended, and the function that wrote.

    Args:
        place: the failpoint of the writes that are counted.
        share: of the file that has room, 0..1; empty: 16 bytes.
    """
    record = warm.folder / "writes"
    record.unlink(missing_ok=True)
    hook = ("full_disk.at_write", str(record), place, str(count), share)
    ended = warm.run(script, *words, hook=hook, timeout=30, **options)
    sites = record.read_text().splitlines() if record.exists() else []
    assert len(sites) >= count or ended.code == 0, (sites, ended.err)
    return ended, sites[count - 1] if len(sites) >= count else ""


def full_at_every_write(
    warm: Warm,
    script: str,
    words: list[object],
    folder: Path,
    last: int = 0,
    **options: Any,
) -> list[str]:
    """Let a command fail at each of its writes, with room for nothing, 16 bytes, half of the file, nearly all of it.

    Args:
        folder: what it writes into.
        last: the write behind which the command may end, where what follows takes long; 0: none.

    Returns:
        The functions that wrote, in order.
    """
    record = warm.folder / "writes"
    record.unlink(missing_ok=True)
    hook = ("full_disk.at_every_write", str(record), str(folder), str(last))
    ended = warm.run(script, *words, hook=hook, timeout=120, **options)
    assert ended.code == 0, ended.err
    notes = [json.loads(line) for line in record.read_text().splitlines()]
    for note in notes:
        assert note["code"] == 3 and ROOM.search(note["err"]), note
        assert "Traceback" not in note["err"], note["err"]
        assert (note["left"], note["changed"]) == ([], []), note
    return [note["site"] for note in notes if note["room"] == 0]
