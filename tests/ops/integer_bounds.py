"""Bounds of the integers that a kernel computes, from Triton's own code for it: does an int32 overflow?"""

import re

_RESULT = re.compile(r"^\s*%(\w+)(?::\d+)? = ([\w.]+) (.*)$")
_LOOP = re.compile(r"scf\.for %(\w+) = %\w+ to %(\w+) step")
_OF_SHAPE = {"tt.splat", "tt.expand_dims", "tt.broadcast", "tt.trans", "tt.reshape", "arith.extsi", "arith.trunci"}


def overflows(ttir: str, *, programs: int, arguments: dict[str, int]) -> list[str]:
    """Lines of `ttir` whose 32-bit result may leave its range.

    Args:
        ttir: a kernel in Triton's first language.
        programs: largest number of programs.
        arguments: largest size of each integer argument, by name.
    """
    bounds: dict[str, int | None] = dict(arguments)
    found = []
    for line in ttir.splitlines():
        line = line.split(" loc(")[0]
        loop = _LOOP.search(line)
        if loop:
            bounds[loop[1]] = bounds.get(loop[2])
            continue
        result = _RESULT.match(line)
        if not result:
            continue
        name, operation, rest = result.groups()
        bound = _bound(operation, rest, bounds, programs)
        bounds[name] = bound
        if bound is not None and bound >= 2**31 and re.search(r"\bi32>?\s*$|xi32", rest):
            found.append(line.strip())
    return found


def _bound(operation: str, rest: str, bounds: dict[str, int | None], programs: int) -> int | None:
    """Largest absolute value of a result; None where it is no integer, or not known."""
    if operation == "arith.constant":
        number = re.match(r"(?:dense<)?(-?\d+)>? : (?:tensor<[\dx]+x)?i\d+", rest)
        return abs(int(number[1])) if number else None
    if operation == "tt.get_program_id":
        return programs
    if operation == "tt.make_range":
        end = re.search(r"end = (\d+)", rest)
        return int(end[1]) if end else None
    of = [bounds.get(operand) for operand in re.findall(r"%(\w+)", rest)]
    known = [bound for bound in of if bound is not None]
    if len(known) < len(of) or not of:
        return None
    if operation in _OF_SHAPE:
        return known[0]
    match operation:
        case "arith.muli":
            return known[0] * known[1]
        case "arith.addi" | "arith.subi":
            return known[0] + known[1]
        case "arith.divsi":
            divisor = re.search(r", %c(\d+)_i\d+", rest)
            return known[0] // int(divisor[1]) if divisor else known[0]
        case "arith.remsi" | "arith.minsi":
            return min(known)
        case "arith.maxsi":
            return max(known)
    return None
