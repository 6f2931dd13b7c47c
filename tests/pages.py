"""Commands as the pages of the docs show them: in fenced and indented blocks, and in `code` within the text."""

import argparse
import importlib
import re
import shlex
import tomllib
from pathlib import Path

from torch.distributed.run import get_args_parser as torchrun_parser

from foldsmith import cli
from foldsmith.inference import kernel
from tests.conftest import ROOT

SCRIPTS = ["train", "predict_oof", "ensemble_search", "ensemble_inference", "deploy_kernel"]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PROGRAM = re.compile(r"(\./)?\S+\.py|foldsmith|torchrun|make|pip")
CODE = re.compile(
    r"^```(?P<language>\w*)\n(?P<fenced>.*?)^```|(?P<indented>(?:^    [^\n]*\n(?:\n(?=    ))*)+)|`(?P<inline>[^`]+)`",
    re.MULTILINE | re.DOTALL,
)
NOT_OURS = {"mine.py"}  # the user's own script, which docs/deploy.md packs
PACKED = {"best.py": "ensemble_inference", "a_train.py": "train"}  # kernels that pages name, by what is in them
NO_TOOL = {"TOOL", "<tool>", "..."}  # stand for any


def steps_of(text: str) -> list[str | list[str]]:
    """A page's commands, as their words, and the config files that it shows, as their text, in order."""
    found: list[str | list[str]] = []
    for code in CODE.finditer(text + "\n"):
        if code["inline"] is not None:
            found += commands_of(re.sub(r"\s+", " ", code["inline"]))
            continue
        block = code["fenced"] or re.sub("^    ", "", code["indented"], flags=re.MULTILINE)
        for part in re.split(r"\n\s*\n", re.sub(r"\\\n\s*", " ", block)):  # a command may go over several lines
            if part.startswith("# configs/"):
                found.append(part.rstrip())
            elif code["language"] in (None, "", "sh", "bash"):
                found += [words for line in part.splitlines() for words in commands_of(line)]
    return found


def commands_in(text: str) -> list[list[str]]:
    """The words of every command of a page."""
    return [step for step in steps_of(text) if not isinstance(step, str)]


def commands_of(line: str) -> list[list[str]]:
    parts = re.split(r"&&|;|\|", re.split(r"(?:^|\s)#", line)[0])
    return [words for words in map(command_of, parts) if words]


def command_of(text: str) -> list[str]:
    """The words of one command: the program, without `./`, and its arguments. Empty where it is no command of ours.

    What stands before the program (variables, `exec`, `python` and its options) and redirections are left out;
    torchrun keeps its own options.
    """
    text = re.sub(r"\$\([^)]*\)|\$\{[^}]*\}|\$\w+", "1", text).removeprefix("$ ")
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe: a sentence
        return []
    was = words
    while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in ("exec", "export", "srun")):
        words = words[1:]
    if words and re.fullmatch(r"(\S*/)?python3?", words[0]):
        words = words[1:]
        while words and words[0].startswith("-"):
            words = words[1:] if words[0] == "-m" else words[2:]
    words = words[: next((index for index, word in enumerate(words) if word.startswith(">")), None)]
    if len(words) < 2 or not PROGRAM.fullmatch(words[0]):
        return []
    is_called = words != was or not words[0].endswith(".py") or words[0].startswith("./")
    if not is_called and not words[1].startswith(("-", "...")):  # a file, and what it is
        return []
    return [words[0].removeprefix("./"), *words[1:]]


def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser of `train.py`, `train` or `foldsmith`."""
    name = program.removesuffix(".py")
    name = "ensemble_search" if name == "ensemble_search_scipy_optimize" else name
    return cli.parser() if name == "foldsmith" else importlib.import_module(name).parser()


def packed_parser(program: str) -> argparse.ArgumentParser:
    """The parser of a kernel."""
    if PACKED[program] == "ensemble_inference":
        return kernel._parser({"deadline": "8h40m", "strict_exit": False})
    return parser_of(PACKED[program])


def tools() -> dict[str, argparse.ArgumentParser]:
    actions = cli.parser()._actions
    return dict(next(each for each in actions if isinstance(each, argparse._SubParsersAction)).choices)


def parse(words: list[str]) -> None:
    """Let the real parser have a command; fails where it would refuse it, or where there is no such program."""
    try:
        _parse(words)
    except SystemExit as end:
        assert end.code == 0, shlex.join(words)


def _parse(words: list[str]) -> None:
    program, rest = words[0], words[1:]
    if program == "torchrun":
        args = torchrun_parser().parse_args(rest)
        _parse([args.training_script, *args.training_script_args])
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), shlex.join(words)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\.\[([\w-]+)\]", " ".join(rest))) <= set(extras), shlex.join(words)
    elif "..." in rest and program != "deploy_kernel.py":  # parts are left out: those that stand there are options
        options = {word for action in parser_of(program)._actions for word in action.option_strings}
        assert {word for word in rest if word.startswith("--")} <= options, shlex.join(words)
    elif program == "foldsmith" and rest[0] in NO_TOOL:
        pass
    elif program == "foldsmith" and len(rest) == 1:  # mentioned rather than shown
        assert rest[0] in cli.TOOLS or rest[0].startswith("--"), shlex.join(words)
    elif "--predict_oof" in rest:
        parser_of("predict_oof").parse_args([word for word in rest if word != "--predict_oof"])
    elif program == "deploy_kernel.py":
        _parse_packing(rest)
    elif program in PACKED:
        packed_parser(program).parse_args(rest)
    elif program.startswith("benchmarks/"):
        assert (ROOT / program).is_file(), program
    else:
        assert (ROOT / program).is_file() or program == "foldsmith", f"there is no {program}"
        parser_of(program).parse_args(rest)


def _parse_packing(words: list[str]) -> None:
    """What deploy_kernel.py does not know belongs to the script that is packed."""
    args, rest = parser_of("deploy_kernel").parse_known_args(words)
    if args.script != "..." and args.script not in NOT_OURS:  # `...`: what does not matter there
        _parse([args.script, *rest])


def is_whole(words: list[str]) -> bool:
    """Nothing in it stands for something else."""
    return not any(re.search(r"\.\.\.|^[A-Z]{2,}$|<", word) for word in words)


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))
