"""Mutations of Python source: the small mistakes of which a test suite should let none through.

A mutation replaces a piece of the text. It flips a comparison, drops one side of ``and``, removes a call, swaps two
arguments, moves a number by one, returns nothing, and so on. Nothing is changed that no test should depend on: texts,
annotations, docstrings, log lines, what an exception is given to say, and numbers that are a choice: constants of a
module and default values, whose test would only repeat them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
"""Replacements of each comparison: its boundary moved, and its opposite."""

OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
"""Replacement of each operator."""

CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil"}
"""Replacement of each function, by the last part of its name."""

SPEECH = ("log", "say", "warning", "info", "debug", "exception")
"""First or last names of calls that only tell people something."""

UNCHANGED = frozenset({"description", "hint", "match", "title", "examples", "strict", "dtype"})
"""Keyword arguments that are never dropped: texts, types of arrays, and what only makes a mistake fail sooner."""

SYMMETRIC = frozenset({"compare_digest", "maximum", "minimum", "logical_and", "logical_or", "array_equal"})
"""Functions whose first two arguments may be swapped; a swap proves nothing."""

LONGEST_SHOWN = 70
"""Characters of the text before and after a mutation that are shown."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutation:
    """One replacement in the source of a module."""

    function: str  # dotted name inside the module; empty at module level
    line: int
    before: str
    after: str
    begin: int  # bytes of the source that are replaced
    end: int
    occurrence: int = 1  # among those of the function with the same texts

    @property
    def key(self) -> str:
        """Name that stays the same while other functions change."""
        number = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.function or 'module'}: {_shown(self.before)} -> {_shown(self.after) or 'nothing'}{number}"

    def apply(self, source: str) -> str:
        """Return the source with this mutation."""
        data = source.encode()
        return (data[: self.begin] + self.after.encode() + data[self.end :]).decode()


def mutations_of(source: str) -> list[Mutation]:
    """Return all mutations of a module in the order of their lines."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))

    seen: Counter[str] = Counter()
    found = []
    for mutation in sorted(finder.found, key=lambda each: (each.begin, each.end, each.after)):
        seen[mutation.key] += 1
        found.append(Mutation(**{**vars(mutation), "occurrence": seen[mutation.key]}))
    return found


def _shown(text: str) -> str:
    """Return a text in one line, short enough for a list."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]}…"


class _Span(NamedTuple):
    begin: int
    end: int


class _Finder(ast.NodeVisitor):
    """Walk through a module that collects mutations, and passes over what must not be mutated."""

    def __init__(self, source: str) -> None:
        self.found: list[Mutation] = []
        self._data = source.encode()
        self._scope: list[str] = []
        self._is_function: list[bool] = []
        self._is_in_default = False
        starts = [0]
        for line in self._data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts = starts

    # Places where nothing is mutated.

    def visit_Import(self, node: ast.Import) -> None:
        """Pass over imports."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Pass over imports."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Pass over assertions, which tell the type checker what it cannot know."""

    def visit_If(self, node: ast.If) -> None:
        """Negate the condition."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Mutate the value, never the annotation."""
        if node.value is not None:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Mutate the body."""
        self._inside([*self._scope, node.name], False, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Mutate the default values and the body."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Mutate the default values and the body."""
        self._function(node)

    def _function(self, node: Function) -> None:
        scope = [*self._scope, node.name]
        self._is_in_default = True
        self._inside(scope, True, [each for each in (*node.args.defaults, *node.args.kw_defaults) if each is not None])
        self._is_in_default = False
        self._inside(scope, True, node.body)

    # Statements.

    def visit_Expr(self, node: ast.Expr) -> None:
        """Remove a call."""
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(value, ast.Call) or _only_speaks(value):
            if isinstance(value, ast.Yield | ast.YieldFrom):
                self.generic_visit(node)
            return
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Remove the assignment to an attribute or an element."""
        target = node.targets[0]
        if isinstance(target, ast.Attribute | ast.Subscript) and self._is_inside_function:
            self._replace(node, "pass")
        self.visit(node.value)
        if isinstance(target, ast.Subscript):
            self.visit(target.slice)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Remove the statement, and replace its operator."""
        self._replace(node, "pass")
        other = OPERATORS.get(type(node.op))
        if other is not None:
            gap = _Span(self._span(node.target).end, self._span(node.value).begin)
            self._replace_text(node, gap, f" {other}= ")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Remove the statement; what the error says is not mutated."""
        self._replace(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        """Return nothing."""
        if node.value is None:
            return
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._replace(node, "return None")
        self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        """Go on instead."""
        self._replace(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        """Do the rest as well, or end the loop."""
        self._replace(node, "pass")
        self._replace(node, "break")

    def visit_Delete(self, node: ast.Delete) -> None:
        """Remove the deletion of an element."""
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self._replace(node, "pass")

    def visit_While(self, node: ast.While) -> None:
        """Negate the condition."""
        self._condition(node.test)
        self.generic_visit(node)

    # Expressions.

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Negate the condition."""
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Drop each condition."""
        for condition in node.ifs:
            self._replace(condition, "True")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Replace each comparison."""
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            gap = _Span(self._span(left).end, self._span(right).begin)
            text = self._text(gap)
            word = text.strip("() \n\t")  # parentheses beside the operator belong to the operands
            begin = gap.begin + text.index(word)
            for other in COMPARISONS[type(operator)]:
                self._replace_text(node, _Span(begin, begin + len(word)), other)
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Drop each operand, and swap ``and`` and ``or``."""
        word = "and" if isinstance(node.op, ast.And) else "or"
        other = "or" if word == "and" else "and"
        for at in range(len(node.values)):
            rest = [ast.unparse(value) for place, value in enumerate(node.values) if place != at]
            self._replace(node, f"({f' {word} '.join(rest)})")
        self._replace(node, "(" + f" {other} ".join(f"({ast.unparse(value)})" for value in node.values) + ")")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop the operator."""
        self._replace(node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Replace the operator of numbers and masks; texts are joined as they are."""
        other = OPERATORS.get(type(node.op))
        if other is not None and not _holds_text(node.left) and not _holds_text(node.right):
            left = ast.unparse(node.left)
            right = ast.unparse(node.right)
            self._replace(node, f"(({left}) {other} ({right}))")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Flip a truth value, and move a number by one unless it is a choice, such as a limit or a default."""
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int | float) and self._scope and not self._is_in_default:
            self._replace(node, repr(node.value + 1))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Mutate nothing in a text."""

    def visit_Call(self, node: ast.Call) -> None:
        """Swap the first two arguments, drop each keyword argument, replace functions by their opposites."""
        if _only_speaks(node):
            return
        name = _last_name(node.func)
        if name in CALLS:
            self._replace(node.func, ast.unparse(node.func).removesuffix(name) + CALLS[name])

        plain = [each for each in node.args if not isinstance(each, ast.Starred)]
        if len(plain) > 1 and len(plain) == len(node.args) and name not in SYMMETRIC | CALLS.keys():
            first, second = (self._span(each) for each in plain[:2])
            swapped = f"{self._text(second)}{self._text(_Span(first.end, second.begin))}{self._text(first)}"
            self._replace_text(node, _Span(first.begin, second.end), swapped)
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in UNCHANGED:
                self._replace(node, _call_without(node, keyword))

        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in UNCHANGED:
                self.visit(keyword.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Drop the bounds of a slice."""
        bounds = node.slice
        if isinstance(bounds, ast.Slice):
            for bound in (bounds.lower, bounds.upper):
                if bound is not None:
                    self._replace(bound, "")
        self.generic_visit(node)

    # Helpers.

    @property
    def _is_inside_function(self) -> bool:
        return any(self._is_function)

    def _inside(self, scope: list[str], is_function: bool, body: Sequence[ast.AST]) -> None:
        before = self._scope
        self._scope = scope
        self._is_function.append(is_function)
        for part in body:
            self.visit(part)
        self._is_function.pop()
        self._scope = before

    def _condition(self, test: ast.expr) -> None:
        """Negate a condition that no other mutation turns round."""
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            self._replace(test, f"(not ({ast.unparse(test)}))")

    def _replace(self, node: ast.AST, after: str) -> None:
        self._replace_text(node, self._span(node), after)

    def _replace_text(self, node: ast.AST, span: _Span, after: str) -> None:
        before = self._text(span)
        line: int = getattr(node, "lineno", 1)
        if before.strip() != after.strip():
            self.found.append(Mutation(".".join(self._scope), line, before, after, *span))

    def _span(self, node: ast.AST) -> _Span:
        """Return the bytes of a node. All nodes that are replaced have positions."""
        place = node if isinstance(node, ast.expr | ast.stmt) else None
        assert place is not None
        assert place.end_lineno is not None
        assert place.end_col_offset is not None
        return _Span(
            self._starts[place.lineno - 1] + place.col_offset, self._starts[place.end_lineno - 1] + place.end_col_offset
        )

    def _text(self, span: _Span) -> str:
        return self._data[span.begin : span.end].decode()


def _call_without(node: ast.Call, keyword: ast.keyword) -> str:
    others = [each for each in node.keywords if each is not keyword]
    return ast.unparse(ast.Call(node.func, node.args, others))


def _last_name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _first_name(function: ast.expr) -> str:
    while isinstance(function, ast.Attribute | ast.Call):
        function = function.value if isinstance(function, ast.Attribute) else function.func
    return function.id if isinstance(function, ast.Name) else ""


def _only_speaks(call: ast.Call) -> bool:
    """Tell whether a call only logs or shows something."""
    return _first_name(call.func) == "log" or _last_name(call.func) in SPEECH


def _holds_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _holds_text(node.left) or _holds_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
