"""Which Python packages a kernel lacks. Of the standard library alone: it is asked before anything else is imported."""

import importlib.util
from collections.abc import Iterable, Sequence

from foldsmith.errors import UserError

# Names to import, of packages that are installed under others.
_IMPORTED = {
    "opencv-python-headless": "cv2",
    "PyYAML": "yaml",
    "scikit-learn": "sklearn",
    "iterative-stratification": "iterstrat",
}
BASICS = ("numpy", "opencv-python-headless", "pydantic", "PyYAML")  # without them nothing else can be looked for


def missing_packages(names: Iterable[str]) -> list[str]:
    """Those of the packages that can't be imported; nothing is imported."""
    modules = {name: _IMPORTED.get(name, name) for name in names if name != "python"}
    return [name for name, module in modules.items() if importlib.util.find_spec(module) is None]


def packages_problem(names: Iterable[str]) -> str | None:
    """A sentence that names all packages that are not there."""
    missing = missing_packages(names)
    return f"these Python packages are not installed: {', '.join(missing)}" if missing else None


def refuse_missing_basics(names: Iterable[str], basics: Sequence[str] = BASICS) -> None:
    """End early where what looks for all other things can't be imported.

    Raises:
        UserError: with all packages that are missing.
    """
    if missing_packages(basics):
        problem = packages_problem(dict.fromkeys([*names, *basics]))
        raise UserError(f"{problem}; without them nothing else can be looked for")
