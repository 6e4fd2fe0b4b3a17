"""Expressions: what they give event by event, what is refused, and where an error points."""

import ast
import inspect
import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlaas_condor.data import expressions, formula, functions
from mlaas_condor.data.events import Jagged
from mlaas_condor.data.expressions import ExpressionError, ShapeError, parse
from mlaas_condor.data.functions import FUNCTIONS, REDUCTIONS

# Steps of 1/4: sums are exact in any order. Negative zero is left out, its sign is nobody's concern here.
VALUE = st.one_of(
    st.integers(-4000, 4000).map(lambda i: i / 4), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])
)
DTYPES = {"pt": np.float32, "eta": np.float64, "good": np.bool_, "mu": np.int16,
          "met": np.float32, "n": np.uint8, "flag": np.bool_}  # fmt: skip
KINDS = {"pt": "jagged", "eta": "jagged", "good": "jagged", "mu": "jagged",
         "met": "flat", "n": "flat", "flag": "flat"}  # fmt: skip


@st.composite
def row(draw):
    """Draw an event: pt, eta and good are of the same length, mu of another."""
    jets = draw(st.lists(st.tuples(VALUE, VALUE, st.booleans()), max_size=4))
    return {
        "pt": [jet[0] for jet in jets],
        "eta": [jet[1] for jet in jets],
        "good": [jet[2] for jet in jets],
        "mu": draw(st.lists(st.integers(-100, 100), max_size=3)),
        "met": draw(VALUE),
        "n": draw(st.integers(0, 255)),
        "flag": draw(st.booleans()),
    }


ROWS = st.lists(row(), max_size=8)


def jagged(lists, dtype=np.float64):
    return Jagged(
        np.array([len(each) for each in lists], np.int64),
        np.array([x for each in lists for x in each], dtype),
    )


def events_of(rows):
    return {
        name: jagged([each[name] for each in rows], dtype)
        if KINDS[name] == "jagged"
        else np.array([each[name] for each in rows], dtype)
        for name, dtype in DTYPES.items()
    }


def lift(function, *values):
    """Apply a function to numbers, or to each element where some are lists."""
    lengths = {len(each) for each in values if isinstance(each, list)}
    if not lengths:
        return function(*values)
    (length,) = lengths
    columns = [each if isinstance(each, list) else [each] * length for each in values]
    return [function(*each) for each in zip(*columns, strict=True)]


def divide(a, b):
    if b:
        return a / b
    return math.nan if not a or math.isnan(a) else math.copysign(math.inf, a)


def extreme(pick):
    return lambda *values: math.nan if any(map(math.isnan, values)) else pick(values)


def root(x):
    return math.sqrt(x) if x >= 0 else math.nan


def whole(round_):
    return lambda x: round_(x) if math.isfinite(x) else x


BINARY = {
    "{} + {}": lambda a, b: a + b,
    "{} - {}": lambda a, b: a - b,
    "{} * {}": lambda a, b: float(a) * float(b),
    "{} / abs({})": lambda a, b: divide(a, abs(b)),
    "{} < {}": lambda a, b: a < b,
    "{} <= {}": lambda a, b: a <= b,
    "{} > {}": lambda a, b: a > b,
    "{} >= {}": lambda a, b: a >= b,
    "{} == {}": lambda a, b: a == b,
    "{} != {}": lambda a, b: a != b,
    "{} and {}": lambda a, b: bool(a) and bool(b),
    "{} or {}": lambda a, b: bool(a) or bool(b),
    "({} > 1) & ({} < 2)": lambda a, b: a > 1 and b < 2,
    "({} > 1) | ({} < 2)": lambda a, b: a > 1 or b < 2,
    "minimum({}, {})": extreme(min),
    "max({}, {}, 1)": lambda a, b: extreme(max)(a, b, 1),
}
UNARY = {
    "-{}": lambda a: -float(a),
    "+{}": lambda a: float(a),
    "not {}": lambda a: not a,
    "~({} > 3)": lambda a: not a > 3,
    "abs({})": abs,
    "np.sqrt({})": root,
    "floor({})": whole(math.floor),
    "{} ** 2": lambda a: float(a) * float(a),
    "isfinite({})": math.isfinite,
    "-1 < {} <= 16": lambda a: -1 < a <= 16,
}
TERNARY = {
    "where({}, {}, {})": lambda a, b, c: b if a else c,
    "{} < {} <= {}": lambda a, b, c: a < b <= c,
    "{} and {} or {}": lambda a, b, c: bool((a and b) or c),
}
OF_LIST = {
    "count(0 + {})": len,
    "any({})": lambda a: any(map(bool, a)),
    "all({})": lambda a: all(map(bool, a)),
    "min({})": lambda a: extreme(min)(*a) if a else math.nan,
    "max({})": lambda a: extreme(max)(*a) if a else math.nan,
    "first({})": lambda a: a[0] if a else math.nan,
    "sum({} > 2)": lambda a: sum(x > 2 for x in a),
}


def leaf(text, kind, slow):
    return st.just((text, kind, slow))


LEAVES = st.one_of(
    *(leaf(name, KINDS[name], lambda r, name=name: r[name]) for name in KINDS if name != "mu"),
    *(
        leaf(text, "number", lambda r, x=x: x)
        for text, x in {"2.5": 2.5, "0": 0, "nan": math.nan, "True": True}.items()
    ),
    leaf("sum(pt)", "flat", lambda r: sum(r["pt"])),
    leaf("sum(mu * met)", "flat", lambda r: sum(x * r["met"] for x in r["mu"])),
)


def kind_of(parts):
    kinds = [kind for _, kind, _ in parts]
    return next(kind for kind in ("jagged", "flat", "number") if kind in kinds)


@st.composite
def combined(draw, children):
    table, n = draw(st.sampled_from([(BINARY, 2), (BINARY, 2), (UNARY, 1), (TERNARY, 3), (OF_LIST, 1)]))
    parts = [draw(children) for _ in range(n)]
    if table is OF_LIST and parts[0][1] != "jagged":
        return parts[0]
    form, function = draw(st.sampled_from(list(table.items())))
    text = form.format(*(f"({text})" for text, _, _ in parts))
    if table is OF_LIST:
        return text, "flat", lambda r: function(parts[0][2](r))
    return text, kind_of(parts), lambda r: lift(function, *(slow(r) for _, _, slow in parts))


FORMULA = st.recursive(LEAVES, combined, max_leaves=10).filter(lambda made: made[1] != "number")


@given(ROWS, FORMULA)
def test_value_is_that_of_a_slow_look_at_each_event(rows, made):
    text, kind, slow = made
    expression = parse(text, KINDS)
    found = expression.evaluate(events_of(rows))
    wanted = [slow(each) for each in rows]
    assert expression.kind(KINDS) == kind and isinstance(found, Jagged) == (kind == "jagged")
    if isinstance(found, Jagged):
        assert found.counts.tolist() == [len(each) for each in wanted]
        wanted = [x for each in wanted for x in each]
        found = found.values
    assert found.dtype in (np.float64, np.bool_) and found.shape == (len(wanted),)
    if expression.boolean:
        assert found.dtype == np.bool_ and all(isinstance(x, bool) for x in wanted)
    np.testing.assert_array_equal(found.astype(np.float64), np.array(wanted, np.float64))


def slow_mean(values):
    return divide(sum(values), len(values))


def slow_std(values):
    return root(slow_mean([(x - slow_mean(values)) ** 2 for x in values])) if values else math.nan


SLOW_REDUCTIONS = {
    "sum": sum,
    "prod": lambda a: math.prod(map(float, a)),
    "mean": slow_mean,
    "std": slow_std,
    "min": OF_LIST["min({})"],
    "max": OF_LIST["max({})"],
    "first": OF_LIST["first({})"],
    "any": OF_LIST["any({})"],
    "all": OF_LIST["all({})"],
    **dict.fromkeys(["count", "len", "length"], len),
}


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
@given(lists=st.lists(st.lists(VALUE, max_size=12), max_size=12))
@example(lists=[[], [], [1.0, 2.0], [], [3.0], [], []])
@example(lists=[[], []])
@example(lists=[[1.0], [math.nan, 0.0], [0.0]])
def test_lists_reduce_to_one_number_an_event(name, lists):
    expression = parse(f"{name}(x)", ["x"])
    found = expression.evaluate({"x": jagged(lists)})
    wanted = [SLOW_REDUCTIONS[name](each) for each in lists]
    assert found.dtype == (np.bool_ if name in ("any", "all") else np.float64)
    assert expression.boolean == (name in ("any", "all"))
    np.testing.assert_allclose(found.astype(np.float64), np.array(wanted, np.float64), rtol=1e-12)


def test_empty_lists_reduce_to_what_is_neutral():
    events = {"x": jagged([[], [2.0], []])}
    found = {name: parse(f"{name}(x)", events).evaluate(events).tolist() for name in sorted(REDUCTIONS)}
    for name, empty in {"sum": 0, "prod": 1, "count": 0, "any": False, "all": True}.items():
        assert found[name][0] == found[name][2] == empty
    for name in ("mean", "std", "min", "max", "first"):
        assert math.isnan(found[name][0]) and math.isnan(found[name][2])
        assert found[name][1] == (0 if name == "std" else 2)


def sign(x):
    return x if math.isnan(x) else (x > 0) - (x < 0)


def mod(a, b):
    """Python's, which has the sign of b."""
    return math.nan if not b or math.isinf(a) else a % b


MATH = [
    "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin",
    "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "hypot", "degrees", "radians",
    "isnan", "isinf", "isfinite", "fmod",
]  # fmt: skip
SLOW_FUNCTIONS = {
    **dict.fromkeys(["abs", "absolute", "fabs"], abs),
    **{name: getattr(math, name) for name in MATH},
    **{f"arc{name[1:]}": getattr(math, name) for name in MATH if name.startswith("a")},
    "rad2deg": math.degrees, "deg2rad": math.radians,
    "square": lambda x: x * x, "power": math.pow, "sign": sign, "mod": mod,
    **{name: whole(function) for name, function in {
        "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "round": round, "rint": round}.items()},
    **dict.fromkeys(["minimum", "min"], extreme(min)), **dict.fromkeys(["maximum", "max"], extreme(max)),
    "heaviside": lambda x, h: x if math.isnan(x) else h if x == 0 else float(x > 0),
    "clip": lambda x, low, high: extreme(min)(extreme(max)(x, low), high),
    "where": lambda x, yes, no: yes if x else no,
}  # fmt: skip
GRID = [-math.inf, -30.0, -2.5, -1.0, -0.3, 0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.5, 40.0, math.inf, math.nan]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_those_of_the_mathematician(name):
    least = FUNCTIONS[name].least
    points = np.stack(np.meshgrid(*[GRID] * least, indexing="ij")).reshape(least, -1)
    events = dict(zip("xyz", points, strict=False))
    expression = parse(f"{name}({', '.join(events)})", events)
    for point, found in zip(points.T.tolist(), expression.evaluate(events).tolist(), strict=True):
        try:
            wanted = SLOW_FUNCTIONS[name](*point)
        except OverflowError:
            wanted = math.inf
        except ValueError:  # outside of where it is defined
            assert not math.isfinite(found), (name, point)
            continue
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-300, nan_ok=True), (name, point)
        assert isinstance(found, bool) == (name in ("isnan", "isinf", "isfinite"))


def flat(text, **branches):
    events = {name: np.atleast_1d(value) for name, value in branches.items()}
    return parse(text, events).evaluate(events).tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x + 2 * 3", [11.0]), ("(x + 2) * 3", [21.0]), ("-x ** 2", [-25.0]), ("2 ** x ** 0", [2.0]),
        ("x // 2", [2.0]), ("-x // 2", [-3.0]), ("x % 3", [2.0]), ("-x % 3", [1.0]), ("x - 1 - 1", [3.0]),
        ("x ** 0.5", [math.sqrt(5)]), ("x ** -1", [0.2]), ("x ** 3", [125.0]), ("x / 2", [2.5]),
        ("0x10 + x", [21.0]), ("1_000 + x", [1005.0]), ("1e3 + x", [1005.0]), (".5 * x", [2.5]),
        ("pi + x", [math.pi + 5]), ("e * x", [math.e * 5]), ("x < inf", [True]), ("x == nan", [False]),
        ("True + x", [6.0]), ("x > 3 > 1", [True]), ("1 < 2 < x", [True]), ("3 < x < 4", [False]),
        ("not x > 3 and x > 3", [False]), ("not (x > 3 and x > 7)", [True]), ("x > 9 or x < 6", [True]),
        ("x == 5 != 0", [True]), ("(x > 1) & (x < 9) | (x > 99)", [True]), ("~(x > 3)", [False]),
        ("np.log(x) - numpy.log(x)", [0.0]), ("(log)(x) - log(x)", [0.0]), ("np . log(x) - log(x)", [0.0]),
        ("  \n x\n+\t1\r\n ", [6.0]), ("where(x > 3, x > 9, True)", [False]), ("where(0, 1, x)", [5.0]),
        ("9**9**9 * x", [math.inf]), ("x / 0", [math.inf]), ("-x / 0", [-math.inf]),
        ("1and x", [True]), ("max(1, x, 7, 2)", [7.0]), ("min(9, x, 7)", [5.0]),
    ],
)  # fmt: skip
def test_grammar_is_that_of_python(text, wanted):
    assert flat(text, x=np.int32(5)) == wanted


@pytest.mark.parametrize(
    ("text", "x", "wanted"),
    [
        ("x - 2", np.uint8(1), -1.0), ("x * x", np.int32(2**31 - 1), float((2**31 - 1) ** 2)),
        ("-x", np.uint64(1), -1.0), ("abs(x)", np.int8(-128), 128.0), ("x + 1", np.uint8(255), 256.0),
        ("x + x", np.bool_(True), 2.0), ("-x", np.bool_(True), -1.0), ("x ** -1", np.int64(4), 0.25),
        ("x // 2", np.int64(-3), -2.0), ("x * 10", np.float32(3e38), 10 * float(np.float32(3e38))),
        ("x + 0", np.float16(0.5), 0.5), ("x + 1", np.array([2.5], ">f4"), 3.5),
        ("sqrt(x)", np.uint8(4), 2.0), ("x > -1", np.uint64(0), True), ("not x", np.int8(0), True),
        ("x and True", np.float32(math.nan), True), ("x - x", np.bool_(True), 0.0),
    ],
)  # fmt: skip
def test_every_dtype_is_reckoned_in_float64(text, x, wanted):
    (found,) = flat(text, x=x)
    assert found == wanted and type(found) is type(wanted)


def test_plain_branches_come_out_as_numbers_or_booleans():
    events = {"i": np.array([1, 2], np.int32), "b": np.array([True, False]), "f": np.array([0.5, 1.5])}
    assert parse("i", events).evaluate(events).dtype == np.float64
    assert parse("b", events).evaluate(events).dtype == np.bool_
    assert parse("f", events).evaluate(events) is events["f"]
    assert not any(parse(name, events).boolean for name in events)


def test_events_are_left_as_they_were():
    rows = [{"pt": [1.0], "eta": [2.0], "good": [True], "mu": [], "met": 3.0, "n": 4, "flag": False}]
    events, before = events_of(rows), events_of(rows)
    parse("sum(-abs(pt) * eta + n) + where(flag, met, -met) ** 2", events).evaluate(events)
    for name in ("met", "n", "flag"):
        assert events[name].dtype == before[name].dtype and events[name] == before[name]
    assert events["pt"].values == before["pt"].values and events["eta"].values == before["eta"].values


@pytest.mark.parametrize(
    ("text", "kind"),
    [("a", "flat"), ("a + 1", "flat"), ("l", "jagged"), ("l * a", "jagged"), ("sum(l) * a", "flat"),
     ("sum(l * a) < a", "flat"), ("where(a, l, 0)", "jagged"), ("max(l, a)", "jagged"), ("max(l)", "flat"),
     ("a < l < 3", "jagged"), ("not l", "jagged"), ("l - mean(l)", "jagged"), ("any(l > a)", "flat")],
)  # fmt: skip
def test_kind_follows_from_the_branches(text, kind):
    assert parse(text, ["a", "l"]).kind({"a": "flat", "l": "jagged", "other": "flat"}) == kind


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_one_number_is_not_a_list(name):
    expression = parse(f"2 * {name}(x + y)", ["x", "y"])
    message = f"{name}() takes the list of an event, 'x + y' is one number"
    with pytest.raises(ExpressionError) as found:
        expression.kind({"x": "flat", "y": "flat"})
    assert (found.value.message, found.value.position) == (message, 5 + len(name))
    with pytest.raises(ExpressionError) as found:
        expression.evaluate({"x": np.array([1.0]), "y": np.array([1.0])})
    assert (found.value.message, found.value.position) == (message, 5 + len(name))


@pytest.mark.parametrize("text", ["sum(3) + x", "x + sum(max(x))", "any(sum(x) > 1)"])
def test_what_can_be_no_list_is_refused_before_any_branch_is_known(text):
    with pytest.raises(ExpressionError, match="is one number"):
        parse(text, ["x"])


def test_lists_of_different_lengths_are_named_with_the_first_event():
    events = {
        "jet": jagged([[1], [1, 2], [3], []]), "mu": jagged([[1], [1, 2], [], [3]]),
        "twin": jagged([[5], [6, 7], [8], []]), "met": np.ones(4),
    }  # fmt: skip
    assert parse("jet + twin", events).evaluate(events).values.tolist() == [6, 7, 9, 11]
    with pytest.raises(ShapeError) as found:
        parse("met + (2*jet + twin < mu - 1)", events).evaluate(events)
    error = found.value
    assert (error.left, error.right, error.event, error.lengths) == ("2*jet + twin", "mu - 1", 2, (1, 0))
    assert (
        str(error)
        == "lists of different lengths: '2*jet + twin' has 1 in event 2, 'mu - 1' has 0"
        == str(pickle.loads(pickle.dumps(error)))
    )
    # As many values in all, and once reduced they fit.
    assert parse("sum(jet) + sum(mu)", events).evaluate(events).tolist() == [2, 6, 3, 3]
    with pytest.raises(ShapeError, match="'jet' has 1 in event 2, 'mu' has 0"):
        parse("max(met, jet, mu)", events).evaluate(events)


def test_branches_are_found_by_their_exact_names():
    known = ["jet.pt", "jet.eta", "jet", "µ", "e", "log", "np.log", "True", "N", "a.b.c"]
    assert parse("jet.pt > 30 and abs(jet.eta) < 2.5", known).branches == {"jet.pt", "jet.eta"}
    assert parse("jet . pt * jet", known).branches == {"jet.pt", "jet"}
    assert parse("log(log) + np.log(N)", known).branches == {"log", "N"}
    assert parse("e + pi + True + a.b.c + np.log", known).branches == {"e", "True", "a.b.c", "np.log"}
    # U+00B5, which Python takes for U+03BC.
    assert parse("2*µ", known).branches == {"µ"}
    assert parse("x", {"x": 1}.keys()).text == "x"


@pytest.mark.parametrize("name", ["μ", "jet.mass", "jet.pt.x", "(jet).pt", "Jet.pt", "n", "ｅ + N", "None"])
def test_other_names_are_unknown(name):
    with pytest.raises(ExpressionError, match=r"there is no branch|is not a number"):
        parse(name, ["jet.pt", "jet.eta", "jet", "µ", "e", "N"])


ESCAPES = [
    "__import__('os').system('x')", "__import__(x)", "().__class__.__bases__", "x.__class__",
    "x.__class__.__mro__", "(x).real", "(1).real + x", "1.0.real + x", "log.__globals__",
    "x + np.log.__self__", "np.log.__self__(x)", "log.__call__(x)", "[c for c in x]", "(c for c in x)",
    "sum(c for c in x)", "{c for c in x}", "{x: x}", "{x}", "[x]", "(x, x)", "x,", "()", "(lambda: 1)()",
    "lambda: x", "(lambda y: y)(x)", "f'{x}'", 'f"{x.__class__}"', "x[0]", "x[:1]", "getattr(x, 'y')",
    "getattr(x, x)", "setattr(x, x, x)", "open('x')", "open(x)", "eval(x)", "exec(x)", "compile(x)",
    "globals()", "vars(x)", "dir()", "breakpoint()", "print(1)", "print(x)", "np.load('x')", "np.load(x)",
    "np.fromfile(x)", "numpy.f2py", "np.f2py(x)", "np", "np.np.log(x)", "np.random.seed(x)",
    "numpy.lib.npyio.load(x)", "os.system(x)", "np.core.log(x)", "scipy.log(x)", "(np).log(x)",
    "(x := 1)", "(log := x)", "x = 1", "x: int", "log(*x)", "log(**x)", "log(x, out=x)", "log(x=x)",
    "sum(x, axis=0)", "log(x)(x)", "x(x)", "1(x)", "(x > 1)(x)", "x.sum()", "log(x).real", "(-x).T",
    "'x'", '"x"', "b'x'", "x + 'x'", "'x' 'y'", "'%s' % x", "`x`", "x if x else x", "x and (yield)",
    "(yield x)", "await x", "(await x)", "...", "x + ...", "None", "x is None", "x in x", "x not in (x, x)",
    "x is not x", "1j * x", "x @ x", "x << 1", "x >> 1", "x; x", "x\ny", "import os", "del x", "*x",
    "x # comment", "x \\\n + 1", "$x", "x ? 1 : 2", "!x", "argmax(x)", "sort(x)", "np.sum.reduce(x)",
]  # fmt: skip


@pytest.mark.parametrize("text", ESCAPES)
def test_nothing_but_arithmetic_of_branches_is_let_through(text):
    with pytest.raises(ExpressionError) as found:
        parse(text, ["x", "y"])
    assert found.value.text == text and 0 <= found.value.position <= len(text)


@pytest.mark.parametrize("module", [expressions, formula, functions])
def test_no_text_is_ever_run(module):
    names = {each.id for each in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(each, ast.Name)}
    assert names.isdisjoint({"eval", "exec", "compile", "getattr", "globals", "vars", "__import__"})


@given(st.text(st.sampled_from("xy_.1e()+-*/<>=!&|~^, '\"[]{}:@#%\\µ\n\t\0\ud800andorif"), max_size=30))
@example("\ufeffx")
@example("x + \x85 1")
@example("x\xa0+ 1")
@example("x\x0c+ y")
def test_any_text_is_either_read_or_refused(text):
    try:
        expression = parse(text, ["x", "y"])
    except ExpressionError as error:
        assert 0 <= error.position <= len(text)
        assert str(error).encode()  # can be printed
    else:
        assert expression.branches and expression.branches <= {"x", "y"}
        found = expression.evaluate({"x": np.array([1.0, 2.0]), "y": np.array([0.0, -1.0])})
        assert found.shape == (2,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(" * 150 + "x" + ")" * 150, None), ("(" * 4000 + "x" + ")" * 4000, "too many|nested too deeply"),
        ("-" * 9000 + "x", "nested"), ("not " * 2000 + "x", "nested"), ("~" * 9000 + "x", "nested"),
        ("+".join(["x"] * 4000), "nested"), ("**".join(["x"] * 3000), "nested"),
        ("+".join(["x"] * 100), None), ("+".join(["x"] * 101), "nested more than 100 levels deep"),
        (" and ".join(["x"] * 1000), None), ("<".join(["x"] * 1000), None),
        ("abs(" * 99 + "x" + ")" * 99, None), ("abs(" * 100 + "x" + ")" * 100, "nested more than 100"),
        ("x" + ".x" * 4000, "there is no branch|nested"), ("x" + "()" * 4000, "nested|not a function"),
        ("x+" + " " * 9997 + "x", None), ("x+" + " " * 9998 + "x", "longer than 10,000 characters"),
        ("x" * 9000, "no branch"), ("9" * 309 + " + x", "too large"), ("x+" + "9" * 5000, "too long"),
        ("x + 0x" + "f" * 9000, "too large"), ("x + 1e999", "too large"), ("9**9**9**9**9 + x", None),
    ],
)  # fmt: skip
def test_what_is_too_much_is_refused(text, message):
    if message is None:
        expression = parse(text, ["x"])
        assert expression.evaluate({"x": np.array([1.0])}).shape == (1,)
    else:
        with pytest.raises(ExpressionError, match=message):
            parse(text, ["x"])


KNOWN = ["nJets", "partonPt", "partonE", "met", "jet.pt", "η", "lost"]


@pytest.mark.parametrize(
    ("text", "position", "message", "hint"),
    [
        ("met && nJets", 4, "'&&'", "write and"),
        ("met || nJets", 4, "'||'", "write or"),
        ("nJets > 1 and !met", 14, "'!'", "write not"),
        ("2 * met^2", 7, "'^'", "write ** for powers"),
        ("nJets = 2", 6, "assigned", "write == to compare"),
        ("nJets =< 2", 6, "'=<'", "write <="),
        ("nJets => 2", 6, "'=>'", "write >="),
        ("nJets <> 2", 6, "'<>'", "write !="),
        ("met > 1 ? 2 : 3", 8, "'?'", "write where(condition, yes, no)"),
        ("2 if met else 3", 0, "if … else", "write where(condition, yes, no)"),
        ("2 + jet.pt[0]", 10, "'['", "first(x) is the first element of each list"),
        ("'met' > 2", 0, "text", "without quotes"),
        ("met > 1 & nJets < 2", 6, "'&' joins comparisons, '1' is none", "parentheses, or write and"),
        ("met > nJets | lost < 2", 6, "'|' joins comparisons, 'nJets' is none", "parentheses, or write or"),
        ("(met > 1) & lost", 12, "'&' joins comparisons, 'lost' is none", "or write and"),
        ("1 + ~met", 4, "'~' turns a comparison round, 'met' is none", "write not"),
        ("2*partonPT", 2, "there is no branch 'partonPT'", "did you mean 'partonPt'"),
        ("η + η*partonp", 6, "there is no branch 'partonp'", "did you mean 'partonE'"),
        ("\n\t met + jet.pT", 9, "there is no branch 'jet.pT'", "did you mean 'jet.pt'"),
        ("met + x.__class__", 6, "there is no branch 'x.__class__'", "there is jet.pt, lost"),
        ("met + np.pi", 6, "there is no branch 'np.pi'", "write pi"),
        ("met + log", 6, "'log' is a function", "write log(…)"),
        ("2 * lg(met)", 4, "there is no function 'lg'", "did you mean 'log'"),
        ("2 * np.loge(met)", 4, "there is no function 'np.loge'", "did you mean 'log'"),
        ("2 * math.log(met)", 4, "there is no function 'math.log'", "write log(…)"),
        ("2 * jet.pt.sum()", 4, "there is no function 'jet.pt.sum'", "write sum(jet.pt)"),
        ("2 * met(3)", 4, "'met' is a branch, not a function", "write * to multiply"),
        ("2 * log(met, 10)", 4, "log() takes 1 argument, not 2", ""),
        ("η * log()", 4, "log() takes 1 argument, not 0", ""),
        ("1 + arctan2(met)", 4, "arctan2() takes 2 arguments, not 1", ""),
        ("1 + maximum(met)", 4, "maximum() takes 2 or more arguments, not 1", ""),
        ("1 + max()", 4, "max() takes 1 or more arguments, not 0", ""),
        ("1 + sum(met, 3)", 4, "sum() takes 1 argument, not 2", ""),
        ("1 + log(*met)", 8, "one by one", ""),
        ("1 + log(**met)", 8, "one by one", ""),
        ("1 + count(η > 2)", 4, "count() is the length of the list", "write sum(…) to count what is true"),
        ("η + 1j", 4, "'1j' is not a number", ""),
        ("η + 1e999", 4, "'1e999' is too large for a number", "write inf"),
        ("η + (met, 1)", 4, "'(met, 1)' is not allowed", ""),
        ("3 < 4", 0, "names no branch", "there is jet.pt, lost, met"),
        (" \n", 0, "is empty", ""),
        ("", 0, "is empty", ""),
        ("met + \0", 6, "null byte", ""),
        ("met + # 3", 6, "comments", ""),
        ("η + * met", 4, "cannot be understood", ""),
        ("  η > > met", 6, "cannot be understood", ""),
        (" met +  ", 6, "cannot be understood", ""),
        ("met + (nJets", 6, "cannot be understood", ""),
        ("met nJets", 4, "cannot be understood", ""),
    ],
)  # fmt: skip
def test_error_says_what_and_where_and_what_to_do(text, position, message, hint):
    with pytest.raises(ExpressionError) as found:
        parse(text, KNOWN)
    error = found.value
    assert error.position == position
    assert message in error.message
    assert hint in error.hint and bool(hint) == bool(error.hint)


def test_error_shows_the_expression_and_a_caret_below():
    with pytest.raises(ExpressionError) as found:
        parse("η >\n partonPT", KNOWN)
    assert str(found.value) == (
        "there is no branch 'partonPT' (did you mean 'partonPt' or 'partonE'?)\n  η >  partonPT\n       ^"
    )
    again = pickle.loads(pickle.dumps(found.value))
    assert str(again) == str(found.value) and again.position == 5


@pytest.mark.parametrize("before", [0, 30, 60, 1000])
@pytest.mark.parametrize("after", [0, 30, 60, 1000])
def test_caret_is_below_the_mistake_in_a_long_expression_too(before, after):
    text = "+".join([*["met"] * 2, "met * " * before + "@" + " * met" * after])
    error = ExpressionError(text, text.index("@"), "wrong")
    message, line, caret = str(error).split("\n")
    assert message == "wrong" and line[caret.index("^")] == "@" and len(line) <= 104
    assert caret.strip() == "^"


def test_expressions_of_the_same_text_are_equal():
    one, two = parse("met > 2", ["met"]), parse("met > 2", ["met", "nJets"])
    assert one == two and hash(one) == hash(two) and one.boolean and "_tree" not in repr(one)


@pytest.mark.parametrize(
    ("text", "boolean"),
    [("x > 2", True), ("1 < x < 2", True), ("not x", True), ("~(x > 1)", True), ("x and x", True),
     ("(x > 1) | (x < 0)", True), ("isnan(x)", True), ("any(x)", True), ("where(x, x > 1, False)", True),
     ("x", False), ("x + (x > 1)", False), ("-(x > 1)", False), ("where(x > 1, x, False)", False),
     ("sum(x > 1)", False), ("max(x > 1, True)", False), ("abs(x > 1)", False)],
)  # fmt: skip
def test_what_gives_true_or_false_is_known_beforehand(text, boolean):
    expression = parse(text, ["x"])
    found = expression.evaluate({"x": jagged([[1.0, 3.0], []])})
    values = found.values if isinstance(found, Jagged) else found
    assert expression.boolean is boolean and (values.dtype == np.bool_) is boolean
