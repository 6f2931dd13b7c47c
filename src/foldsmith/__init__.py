"""foldsmith: one YAML is one experiment; K folds, one blend, one kernel file."""

import os

__version__ = "0.1.0"

# Libraries read these when they are imported, whoever imports them first.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))  # larger images are refused by their header
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for a newer release
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
