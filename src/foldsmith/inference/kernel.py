"""What a packed kernel runs: ensemble inference on whatever lies below ../input and /kaggle/input."""

import os
from pathlib import Path


def main(ensemble_text: str, name: str) -> None:
    """Run the ensemble whose YAML is given; writes submission.csv into the working folder."""
    # Kernels have no network: say so to every library before it is imported, else it waits for time-outs.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from foldsmith.ensemble.file import parse_ensemble
    from foldsmith.inference.ensemble import run_ensemble
    from foldsmith.inference.find import INPUT_ROOTS
    from foldsmith.inference.predict import pick_device

    run_ensemble(
        parse_ensemble(ensemble_text, name),
        model_roots=INPUT_ROOTS,
        data_root=None,
        output=Path("submission.csv"),
        device=pick_device(None),
    )
