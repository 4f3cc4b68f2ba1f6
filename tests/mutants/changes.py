"""The changes that mutation testing makes: one operator, constant, condition, statement or copy at a time."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
# calls that are replaced by what they are given: x.copy(), tuple(x)
UNWRAPPED = {"copy", "ascontiguousarray", "tuple", "list", "float", "int", "bool", "reversed", "sorted"}
DEFAULTS = ("defaults", "kw_defaults")
GUARDS = ("check", "raise", "_raise", "_refuse", "self._check", "array_module(")  # how a deleted statement begins
DELETED = (ast.Expr, ast.AugAssign, ast.Raise, ast.Break, ast.Continue)  # and assignments to an item


class Mutant(NamedTuple):
    """A change to a file of the package."""

    file: str
    key: str  # what is changed, by function and text, so that it stays the same when lines move
    lines: range  # of the statement that is changed, counted from 1
    source: str  # of the whole file, changed
    guard: bool = False  # whether it changes a default, drops a copy, a check or an error: every run includes these


def replacements(node: ast.AST, role: str) -> Iterator[str]:
    """Yield what may stand in place of this node, which is its parent's field of this name."""
    operator = getattr(node, "op", None)
    if isinstance(node, ast.Compare):
        for n, each in enumerate(node.ops):
            ops = [*node.ops[:n], SWAPPED[type(each)](), *node.ops[n + 1 :]]
            yield f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})"
    elif type(operator) in SWAPPED:
        text = ast.unparse(type(node)(**vars(node) | {"op": SWAPPED[type(operator)]()}))
        yield text if isinstance(node, ast.stmt) else f"({text})"
    elif isinstance(operator, ast.BitOr) and isinstance(node, ast.BinOp):
        yield ast.unparse(node.left)
    elif isinstance(operator, (ast.Not, ast.USub)):
        yield f"({ast.unparse(node.operand)})"
    if isinstance(node, ast.Constant):
        value: Any = node.value
        if isinstance(value, bool):
            yield str(not value)
        elif isinstance(value, (int, float)):
            yield repr(value + 1 if isinstance(value, int) else value * 2 or 1.0)
        elif isinstance(value, str) and role in DEFAULTS:
            yield repr("mutated")
    elif isinstance(node, ast.Call):
        method = isinstance(node.func, ast.Attribute) and not node.args
        operands = [node.func.value] if method else node.args
        if ast.unparse(node.func).split(".")[-1] in UNWRAPPED and len(operands) == 1 and not node.keywords:
            yield f"({ast.unparse(operands[0])})"
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "return None"
    elif (isinstance(node, DELETED) and not isinstance(getattr(node, "value", None), ast.Constant)) or (
        isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    ):  # fmt: skip
        yield "pass"
    if role in ("test", "ifs"):
        yield from ("True", "False")


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Yield all mutants of a file with this text, in its order."""
    source, lines, seen = text.encode(), text.splitlines(), Counter[str]()
    starts = [0, *(n + 1 for n, byte in enumerate(source) if byte == ord("\n"))]  # ast counts columns in bytes

    def visit(node: ast.AST, role: str, where: str, covering: range) -> Iterator[Mutant]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            where = f"{where}.{node.name}".lstrip(".")
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)  # of a compound statement, its first line stands for its head
            covering = range(node.lineno, (body[0].lineno if body else node.end_lineno) + 1)
        for replacement in replacements(node, role):
            start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            line, old = lines[node.lineno - 1].split("  #")[0].strip(), " ".join(source[start:end].decode().split())
            if replacement == old:
                continue
            key = f"{file} {where}: {line}   [{old if old != line else 'it'} -> {replacement}]"
            seen[key] += 1
            changed = (source[:start] + replacement.encode() + source[end:]).decode()
            guard = role in DEFAULTS or old.endswith(".copy()") or (replacement == "pass" and old.startswith(GUARDS))
            yield Mutant(file, key + f" #{seen[key]}" * (seen[key] > 1), covering, changed, guard)
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and name not in ("annotation", "returns", "decorator_list"):
                    field = isinstance(node, ast.AnnAssign) and role == "body"  # of a dataclass
                    yield from visit(child, "defaults" if field else name, where, covering)

    yield from visit(ast.parse(text), "", "", range(0))
