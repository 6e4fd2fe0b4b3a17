"""What is in some files, for people: tables of files, trees and branches."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mlaas_condor.data.specs import BranchSpecs
from mlaas_condor.facts import Bars, BranchFacts

if TYPE_CHECKING:
    from mlaas_condor.inspection import FileFacts, Inspection

MANY = 100  # branches from which on those that are called alike share a row
_ALIKE = 3  # that many of them
_PREFIX = re.compile(r"[^_.]+[_.]")
_BLOCKS = "▁▂▃▄▅▆▇█"
_NAMES, _REASONS = 60, 12  # letters and lines for those that cannot be features
_TYPES = 3  # of a row of many branches
_WIDE, _NARROW = 24, 12  # blocks of a histogram
_WIDTH = 140
_TAKEN = (
    "a run takes these as features, unless identifier, selected_branches or exclude_branches say otherwise"
)


def number(value: float | None, spread: float = 0.0) -> str:
    """Return a number with four digits that count, plain as long as it is no longer for that.

    With more digits where values that lie ``spread`` apart could not be told from one another otherwise.
    """
    if value is None:
        return ""
    if value and spread and abs(value) > 100 * spread:
        return f"{value:.{min(9, math.ceil(math.log10(abs(value) / spread)) + 2)}g}"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if 1e-3 <= abs(value) < 1e6:
        digits = f"{value:.4g}"
        return f"{value:.0f}" if "e" in digits else digits
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _of_range(specs: BranchSpecs | None, which: str) -> str:
    """Return minimum, maximum or mean with digits that tell them apart."""
    if specs is None:
        return ""
    return number(getattr(specs, which), (specs.maximum or 0.0) - (specs.minimum or 0.0))


def _mean(length: float | None) -> str:
    """Return a mean length; of lists that are nearly always empty, with the digits that count."""
    if length is None:
        return ""
    return number(round(length, 1)) if length >= 1 else f"{length:.2g}"


def _count(n: int) -> str:
    return "1 branch" if n == 1 else f"{n:,} branches"


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.1f} kB"


def blocks(counts: Sequence[int], most: int) -> str:
    """Return a histogram as at most ``most`` characters, neighbouring bins joined where there are more."""
    each = -(-len(counts) // most)
    joined = [sum(counts[i : i + each]) for i in range(0, len(counts), each)]
    highest = max(joined, default=0)
    # Any value at all shows, and no value does not.
    return "".join(_BLOCKS[max(0, -(-8 * n // highest) - 1)] if n else " " for n in joined)


def text(inspection: Inspection) -> str:
    """Return everything as text, for notebooks and logs."""
    from rich.console import Console

    console = Console(width=_WIDTH, markup=False, highlight=False, color_system=None, force_terminal=False)
    with console.capture() as captured:
        for each in parts(inspection, _WIDTH):
            console.print(each)
    return captured.get()


def parts(
    inspection: Inspection, width: int | None = None, each_file: bool = False, grouped: bool = True
) -> Iterator[Table | Text]:
    """Yield what to print, one after another.

    Parameters
    ----------
    inspection
        What was found.
    width
        Columns of the terminal; None for as many as it takes.
    each_file
        Whether each of several files has its own table of branches.
    grouped
        Whether branches that are called alike share a row where there are many.
    """
    files = inspection.files
    if len(files) > 1:
        yield _files(files)
    for file in files if each_file or len(files) == 1 else ():
        if len(files) > 1:
            yield Text()
        yield _head(file)
        yield from _branches(list(file.branches.values()), width, grouped)
        yield from _of_file(file)
    if len(files) < 2:
        return
    if not each_file:
        yield Text(f"\n{_count(len(inspection.branches))}, in all files together", "bold")
        yield from _branches(list(inspection.branches.values()), width, grouped)
        yield from _looked_at(files)
        damaged = {f"{name} of {file.path}": why for file in files for name, why in file.damaged.items()}
        left_out = {name: why for file in reversed(files) for name, why in file.left_out.items()}
        yield from _without(left_out, damaged)
    yield from _differences(inspection)


def _files(files: Sequence[FileFacts]) -> Table:
    grid = _grid("file", "tree", ">entries", ">branches", ">size")
    for file in files:
        grid.add_row(file.path, file.tree, f"{file.entries:,}", str(len(file.branches)), _size(file.size))
    return grid


def _grid(*columns: str) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        grid.add_column(name.lstrip(">"), no_wrap=True, justify="right" if name.startswith(">") else "left")
    return grid


def _head(file: FileFacts) -> Text:
    lists = sum(each.branch.kind == "jagged" for each in file.branches.values())
    head = Text.assemble((file.path, "bold"), f"  {_size(file.size)}\n")
    if len(file.trees) > 1:
        trees = [
            f"{name} ({'cannot be read' if entries is None else f'{entries:,}'})"
            for name, entries in file.trees.items()
        ]
        head.append(f"trees with their entries: {', '.join(trees)}; --tree chooses\n")
    head.append(f"tree {file.tree}: " if file.tree else "")
    head.append(f"{file.entries:,} entries, {_count(len(file.branches))} that can be features")
    head.append(f" ({len(file.branches) - lists} flat, {lists} jagged)" if file.branches else "")
    return head


def _branches(found: Sequence[BranchFacts], width: int | None, grouped: bool) -> Iterator[Table | Text]:
    groups = _groups(found) if grouped and len(found) > MANY else {}
    if groups:
        yield Text()
        yield _overview(groups)
        first = next(iter(groups))
        yield Text(f"--branches '{first}*' shows those of a row, --branches '*' every one", "dim")
    of_groups = {each.branch.name for group in groups.values() for each in group}
    rest = [each for each in found if each.branch.name not in of_groups]
    if rest:
        yield Text()
        yield _table(rest, width)


def _groups(found: Iterable[BranchFacts]) -> dict[str, list[BranchFacts]]:
    """Return the branches that are called alike up to the first underscore or dot, by that beginning."""
    groups: dict[str, list[BranchFacts]] = {}
    for each in found:
        prefix = _PREFIX.match(each.branch.name)
        if prefix:
            groups.setdefault(prefix[0], []).append(each)
    return {prefix: group for prefix, group in groups.items() if len(group) >= _ALIKE}


def _overview(groups: Mapping[str, Sequence[BranchFacts]]) -> Table:
    grid = _grid("branches", ">number", "types", ">mean length", ">longest", "")
    for prefix, group in groups.items():
        types = Counter(each.type for each in group)
        means = sorted({_mean(each.mean_length) for each in group} - {""}, key=float)
        longest = max((each.longest for each in group if each.longest is not None), default=None)
        grid.add_row(
            f"{prefix}*",
            str(len(group)),
            " ".join([name for name, _ in types.most_common(_TYPES)] + ["…"] * (len(types) > _TYPES)),
            means[0] if len(means) == 1 else f"{means[0]} to {means[-1]}" if means else "",
            number(longest),
            Text(_oddities(group), "dim"),
        )
    return grid


def _oddities(group: Sequence[BranchFacts]) -> str:
    odd = Counter(each.note for each in group if each.note)
    nan = sum(bool(each.specs and each.specs.values and each.specs.not_finite) for each in group)
    said = [f"{n} {note}" if n < len(group) else f"all {note}" for note, n in odd.most_common()]
    return ", ".join([*said, *([f"{nan} with NaN"] if nan else [])])


def _table(found: Sequence[BranchFacts], width: int | None) -> Table:
    """Return a row a branch; without what is least needed where the terminal is narrow."""
    columns: dict[str, list[str]] = {
        "branch": [each.branch.name for each in found],
        "type": [each.type for each in found],
        ">length": [_mean(each.mean_length) for each in found],
        ">longest": [number(each.longest) for each in found],
        ">min": [_of_range(each.specs, "minimum") for each in found],
        ">max": [_of_range(each.specs, "maximum") for each in found],
        ">mean": [_of_range(each.specs, "mean") for each in found],
        ">NaN": [_share(each) for each in found],
    }
    columns = {
        name: cells for name, cells in columns.items() if any(cells) or name in ("branch", ">min", ">max")
    }
    most = _WIDE
    for most, dropped in ((_WIDE, ()), (_NARROW, ()), (_NARROW, (">mean",)), (_NARROW, (">mean", ">length"))):
        kept = {name: cells for name, cells in columns.items() if name not in dropped}
        needed = sum(2 + max(map(len, [name.lstrip(">"), *cells])) for name, cells in kept.items()) + most
        if width is None or needed <= width:
            break
    grid = _grid(*kept, "1 % to 99 %")
    for each, *cells in zip(found, *kept.values(), strict=True):
        grid.add_row(*cells, _histogram(each, most))
    return grid


def _share(each: BranchFacts) -> str:
    """Return the share of values that are not finite."""
    if each.specs is None or not each.specs.not_finite:
        return ""
    share = each.specs.not_finite / (each.specs.values + each.specs.not_finite)
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def _histogram(each: BranchFacts, most: int) -> Text:
    bars: Bars | None = each.bars
    return Text(blocks(bars.counts, most), "cyan") if bars and not each.note else Text(each.note, "dim")


def _of_file(file: FileFacts) -> Iterator[Text]:
    yield from _looked_at([file])
    yield from _without(file.left_out, file.damaged)


def _looked_at(files: Sequence[FileFacts]) -> Iterator[Text]:
    seen, entries = sum(file.seen for file in files), sum(file.entries for file in files)
    if seen < entries:
        several = (
            f"the first {max(file.seen for file in files):,} entries of each file, " if files[1:] else ""
        )
        what = several or "the first "
        yield Text(
            f"\nrange and histogram of {what}{seen:,} of {entries:,} entries; --all looks at all", "yellow"
        )
    if any(file.branches for file in files):
        yield Text(f"\n{_TAKEN}", "dim")


def _without(left_out: Mapping[str, str], damaged: Mapping[str, str]) -> Iterator[Text]:
    if damaged:
        yield Text("\nbranches that cannot be read; a run needs them in exclude_branches", "red")
        yield from _by_reason(damaged)
    if left_out:
        yield Text(f"\n{_count(len(left_out))} cannot be features", "bold")
        yield from _by_reason(left_out)


def _by_reason(found: Mapping[str, str]) -> Iterator[Text]:
    groups: dict[str, list[str]] = {}
    for name, reason in found.items():
        groups.setdefault(reason, []).append(name)
    ordered = sorted(groups.items(), key=lambda each: -len(each[1]))
    for reason, names in ordered[:_REASONS]:
        yield Text.assemble(f"  {reason}: ", (_some(names), "dim"))
    rest = [name for _, names in ordered[_REASONS:] for name in names]
    if rest:
        yield Text(f"  {len(rest)} more, for {len(ordered) - _REASONS} other reasons: --json has them all")


def _some(names: Sequence[str]) -> str:
    """Return as many names as fit in a line, at least one."""
    shown = 1
    while shown < len(names) and len(", ".join(names[: shown + 1])) <= _NAMES:
        shown += 1
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _differences(inspection: Inspection) -> Iterator[Text]:
    if not inspection.differences:
        return
    yield Text("\nwhat differs", "bold")
    alike: dict[str, list[str]] = {}
    for path, problem in inspection.differences:
        alike.setdefault(problem.what.removeprefix(f"{path}: "), []).append(path)
    for what, paths in alike.items():
        yield Text.assemble(f"  {what}: ", (_some(paths), "dim"))
    for hint in dict.fromkeys(problem.hint for _, problem in inspection.differences if problem.hint):
        yield Text(f"  → {hint}", "dim")
