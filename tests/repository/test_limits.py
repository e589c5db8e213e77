"""The limits of CONTRIBUTING.md: short modules and functions, few arguments, and a command line that names no task."""

import ast
from collections.abc import Iterator
from pathlib import Path

from scalablevit.tasks import TASKS

PACKAGE = Path(__file__).parents[2] / "src" / "scalablevit"
MODULES = sorted(PACKAGE.rglob("*.py"))
KERNELS = ("kernel.py", "backward_kernel.py", "programs.py")


def is_operator(node: ast.FunctionDef) -> bool:
    """Whether it is an operator of PyTorch: its schema knows tensors and numbers, nothing that holds several."""
    decorators = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
    return any(name.endswith(("custom_op", "register_fake")) for name in decorators)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function but kernels and operators, with the place where it stands."""
    for path in MODULES:
        if path.name not in KERNELS:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and not is_operator(node):
                    yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def test_modules_have_at_most_500_lines() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert not {path.name: count for path, count in lines.items() if count > 500}


def test_functions_have_at_most_80_lines_and_12_arguments() -> None:
    found = dict(functions())
    assert len(found) > 1000
    long = {place: (node.end_lineno or 0) - node.lineno + 1 for place, node in found.items()}
    assert not {place: lines for place, lines in long.items() if lines > 80}
    many = {place: len(node.args.args) + len(node.args.kwonlyargs) for place, node in found.items()}
    assert not {place: count for place, count in many.items() if count > 12}


def test_the_command_line_names_no_task() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not set(TASKS).intersection(text for text in texts if isinstance(text, str)), path.name
