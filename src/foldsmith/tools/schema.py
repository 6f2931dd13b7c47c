"""`foldsmith schema`: what editors complete experiment files from."""

import argparse
import json

HELP = "print the JSON Schema of experiment files, for editors"
EXAMPLE = "foldsmith schema --output schema.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments."""


def run(args: argparse.Namespace) -> None:
    print(json.dumps(foldsmith_schema(), indent=1))


def foldsmith_schema() -> dict[str, object]:
    """The JSON Schema of an experiment file, with `base`, which the loader takes out before validation."""
    from foldsmith.config import Config

    schema = Config.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "a config that this one overrides; relative path"}
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)  # a base may hold what is missing here
    return schema
