"""What lies beside a packed file: kernel-metadata.json, manifest.json and a README; and who decides what is in them.

Flags come before the `deploy:` section of the experiment or ensemble file, and that before the one of deploy.yml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foldsmith
from foldsmith.config import Config, Deploy, read_yaml
from foldsmith.config.deploy import LONGEST, SHORTEST, slugify
from foldsmith.config.loader import problems_error
from foldsmith.config.section import Section
from foldsmith.config.validate import schema_problems
from foldsmith.errors import UserError
from foldsmith.kernel.contents import Contents
from foldsmith.kernel.pack import manifest

DEFAULT = Path("deploy.yml")
NOBODY = "INSERT_KAGGLE_USERNAME"


class DeployFile(Section):
    """A file with nothing but a deploy section."""

    deploy: Deploy


def settings(named: Path | None, section: Deploy | None, flags: Mapping[str, Any]) -> Deploy:
    """The deploy section that holds, key by key.

    Args:
        named: `--deploy FILE`; None: deploy.yml where there is one.
        section: of the experiment or ensemble file.
        flags: those that were given, by key.
    """
    path = named or (DEFAULT if DEFAULT.is_file() else None)
    values: dict[str, Any] = {}
    if path is not None:
        document = read_yaml(path)
        found, problems = schema_problems(document.values, DeployFile)
        if found is None:
            raise problems_error(path, document, problems)
        values |= found.deploy.model_dump(exclude_unset=True)
    if section is not None:
        values |= section.model_dump(exclude_unset=True)
    deploy, problems = schema_problems(values | dict(flags), Deploy)
    if deploy is None:
        raise UserError("; ".join(problem.message for problem in problems), key="deploy")
    return deploy


def kernel_metadata(name: str, usual_title: str, deploy: Deploy) -> dict[str, Any]:
    """What `kaggle kernels push` reads.

    Args:
        name: of the packed file, without .py.
        usual_title: where the section names none.
    """
    slug = (deploy.id or "").partition("/")[2]
    title = deploy.title or slug.replace("-", " ") or slugify(usual_title).replace("-", " ")
    if not SHORTEST <= len(title) <= LONGEST:
        raise UserError(
            f"a kernel's title has {SHORTEST} to {LONGEST} characters, got {len(title)}: {title!r}",
            hint="name one with --title or in the deploy section",
        )
    datasets = [*deploy.dataset_sources]
    if deploy.weights_dataset is not None and deploy.weights_dataset not in datasets:
        datasets.append(deploy.weights_dataset)
    metadata = {
        "id": deploy.id or f"{deploy.user or NOBODY}/{slugify(title)}",
        "title": title,
        "code_file": f"{name}.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": deploy.is_private,
        "enable_gpu": deploy.enable_gpu,
        "enable_internet": deploy.enable_internet,
        "dataset_sources": datasets,
        "competition_sources": deploy.competition_sources,
        "kernel_sources": deploy.kernel_sources,
    }
    return metadata | ({"machine_shape": deploy.machine_shape} if deploy.machine_shape else {})


def manifest_json(contents: Contents, script: str) -> dict[str, Any]:
    """What is in the packed file and what it needs, for people and for diffs. No secret is in it."""
    options = contents.options
    return {
        "format": "foldsmith-kernel-1",
        "foldsmith": foldsmith.__version__,
        "built_with": options["built_with"],
        "code_file": script,
        "files": {path: {"bytes": size, "sha256": sha256} for path, (size, sha256) in manifest(contents.files).items()},
        "configs": [path for path in sorted(contents.files) if path.endswith(".yml")],
        "weights": {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in options["weights"].items()},
        "weights_not_seen": sorted({*contents.not_here, *contents.sealed} - options["weights"].keys()),
        "arguments": options.get("arguments", []),
        "deadline": options.get("deadline"),
        "strict_exit": options.get("strict_exit"),
    }


def readme(folder: Path, metadata: Mapping[str, Any], contents: Contents) -> str:
    """Three lines: what to upload, what to type, what comes out."""
    inputs = ", ".join([*metadata["competition_sources"], *metadata["dataset_sources"]]) or "none named yet"
    open_names = {*contents.options["weights"], *contents.not_here} - contents.sealed.keys()
    names = sorted(open_names | {path.name for path in contents.sealed.values()})
    weights = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    upload = f"Upload a dataset of {weights} (--stage-weights DIR gathers it)." if names else "Upload no weights."
    code_file = metadata["code_file"]
    return (
        f"{upload} Inputs named in kernel-metadata.json: {inputs}.\n"
        f"Type `kaggle kernels push -p {folder}`, or paste {code_file} into a script on Kaggle and add the inputs.\n"
        f"It writes {contents.writes} into the working folder; manifest.json says what it is made of.\n"
    )


def check_network(deploy: Deploy, config: Config | None) -> None:
    """Refuse a kernel that would start with a download."""
    if config is not None and config.model.pretrained is True and not deploy.enable_internet:
        raise UserError(
            "true is a download, and the kernel has no network",
            key="model.pretrained",
            hint="name a file of weights, which is then one to upload, or set enable_internet (--internet)",
        )
