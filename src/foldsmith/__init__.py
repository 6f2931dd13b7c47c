"""foldsmith: one YAML is one experiment; K folds, one blend, one kernel file."""

__version__ = "0.1.0"
