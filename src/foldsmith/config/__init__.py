"""The strict experiment file: schema, validation messages, loader."""

from foldsmith.config.deploy import Deploy
from foldsmith.config.loader import find_config, load_config
from foldsmith.config.schema import Config
from foldsmith.config.validate import Problem
from foldsmith.config.yaml_text import Document, dotted, dump_yaml, parse_yaml, read_yaml

__all__ = [
    "Config",
    "Deploy",
    "Document",
    "Problem",
    "dotted",
    "dump_yaml",
    "find_config",
    "load_config",
    "parse_yaml",
    "read_yaml",
]
