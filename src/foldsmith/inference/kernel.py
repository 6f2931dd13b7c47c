"""What a packed kernel runs: ensemble inference on whatever lies below ../input and /kaggle/input."""

import os
from pathlib import Path


def main(ensemble_text: str, name: str) -> None:
    """Run the ensemble whose YAML is given; writes submission.csv into the working folder."""
    # Kernels have no network: say so to every library before it is imported, else it waits for time-outs.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from foldsmith.ensemble.file import parse_ensemble
    from foldsmith.inference.ensemble import Options, run_ensemble
    from foldsmith.inference.find import INPUT_ROOTS
    from foldsmith.inference.predict import pick_devices

    options = Options(model_roots=INPUT_ROOTS, output=Path("submission.csv"), devices=pick_devices(None))
    run_ensemble(parse_ensemble(ensemble_text, name), options)
