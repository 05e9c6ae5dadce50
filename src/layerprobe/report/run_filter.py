"""Conditions on runs: comparisons of a run's values, and nothing that can call, look into or name anything else.

`pandas.DataFrame.query` would: `@name` is any Python variable of its caller, and `column.to_csv('file')` any method.
So a condition is read here, every part of it is checked against what a condition may hold, and only then evaluated.
"""

from __future__ import annotations

import ast
import re

import pandas as pd
from pandas.api.types import is_bool_dtype

from layerprobe.results.config_migration import current_override

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |   `(?P<quoted>[^`\n]*)`
    |   (?P<number>\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    |   (?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)
    |   (?P<operator>==|!=|<=|>=|[<>()\[\],&|~+\-*/%])
    |   (?P<blank>\s+)""",
    re.VERBOSE,
)
_WORDS = {"and", "or", "not", "in", "True", "False", "None"}
_ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Invert, ast.Compare,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.BinOp, ast.BitAnd, ast.BitOr, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip


class ConditionError(ValueError):
    """A condition that holds what no condition may, or that cannot be evaluated."""


def rows_where(table: pd.DataFrame, condition: str) -> pd.Index:
    """Find the rows that fulfil a condition.

    Args:
        table: Any table; a column's name may hold dots, and any other sign where the condition has it in backticks.
        condition: Comparisons (`==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in`) of columns, numbers, texts and lists,
            joined by `and`, `or`, `not` or `&`, `|`, `~`; numbers may be calculated with.

    Raises:
        ConditionError: If it holds anything else, names no column, or compares what cannot be compared.
    """
    columns = {str(name): f"c{i}" for i, name in enumerate(table)}
    tree = _parsed(_with_plain_names(condition, columns))
    plain = table.set_axis(list(columns.values()), axis=1)
    try:
        kept = plain.eval(ast.unparse(tree), engine="python", local_dict={}, global_dict={})
    except Exception as error:  # pandas raises errors of many kinds for what it cannot compare
        names = {short: name for name, short in columns.items()}
        raise ConditionError(re.sub(r"\bc\d+\b", lambda m: names.get(m[0], m[0]), str(error))) from error
    if not isinstance(kept, pd.Series) or not is_bool_dtype(kept):
        raise ConditionError("it does not say true or false for each run")  # pandas would look numbers up in the index
    return table.index[kept]


def _with_plain_names(condition: str, columns: dict[str, str]) -> str:
    parts, at = [], 0
    while at < len(condition):
        found = _TOKEN.match(condition, at)
        if found is None:
            raise ConditionError(f"{condition[at]!r} has no meaning in it")
        at = found.end()
        name = found["quoted"] if found["quoted"] is not None else found["name"]
        name = name if name is None or name in columns else current_override(name)
        if name is None or (name in _WORDS and found["quoted"] is None):
            parts.append(found[0])
        elif name in columns:
            parts.append(f" {columns[name]} ")
        else:
            raise ConditionError(f"name {name!r} is not defined")
    return "".join(parts).strip()


def _parsed(source: str) -> ast.Expression:
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConditionError(getattr(error, "msg", None) or str(error) or "it is too long") from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ConditionError(f"{type(node).__name__} has no meaning in it: it compares values, and calls nothing")
        if isinstance(node, ast.BinOp) and any(
            isinstance(side, ast.List | ast.Tuple) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
            for side in (node.left, node.right)
        ):
            raise ConditionError("only numbers can be calculated with")
    return tree
