"""Write the tables of the documentation that come from the code.

python docs/tables.py            # writes them
python docs/tables.py --check    # says whether they are up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlaas_condor import settings
from mlaas_condor.batch import reasons
from mlaas_condor.jsonfile import dumps
from mlaas_condor.params import Params
from mlaas_condor.request import Job, parse_size
from mlaas_condor.server.configuration import SECTIONS

DOCS = Path(__file__).parent
_HOME = str(Path.home())


def keys(kind: type[BaseModel]) -> str:
    """Return a table of the keys of a request."""
    rows = ["| key | meaning | default |", "|---|---|---|"]
    for name, info in kind.model_fields.items():
        rows.append(f"| `{name}` | {info.description} | {_default(info)} |")
    return "\n".join(rows)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**needed**"
    value = info.get_default()
    if value is None or value == [] or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def service_keys() -> str:
    """Return a table of the keys of each section of ``service.toml``, and its heading."""
    texts = []
    for name, kind in SECTIONS.items():
        own = {
            key: info for key, info in kind.model_fields.items() if f"{name}.{key}".strip(".") not in SECTIONS
        }
        said = re.sub(r"^``\[.*?\]``: ", "", (kind.__doc__ or "").splitlines()[0])
        heading = [f"### `[{name}]`", "", said[:1].upper() + said[1:]]
        rows = [*(heading if name else ["### Before any section"]), ""]
        rows += ["| key | meaning | default |", "|---|---|---|"]
        rows += [f"| `{key}` | {info.description} | {_toml_default(info)} |" for key, info in own.items()]
        texts.append("\n".join(rows))
    return "\n\n".join(texts)


def _toml_default(info: FieldInfo) -> str:
    value = None if info.is_required() else info.get_default()
    if parse_size in {getattr(each, "func", None) for each in info.metadata}:
        return f"`{value // 1024}gb`"
    if isinstance(value, list) and value:
        return f"`{dumps(value, None)}`"
    return "" if value == "" else _default(info)


def exits(first: int, last: int) -> str:
    """Return a table of the exit codes in a range."""
    rows = ["| code | name | meaning |", "|---|---|---|"]
    for code, name, meaning in reasons.table():
        if first <= code <= last:
            rows.append(f"| {code} | `{name}` | {meaning.replace('``', '`')} |")
    return "\n".join(rows)


def setting_rows() -> str:
    """Return a table of the settings."""
    doc = settings.Settings.__doc__ or ""
    described = re.findall(r"^ {4}(\w+)\n((?: {8}.*\n)+)", doc, re.MULTILINE)
    rows = ["| setting | environment | meaning |", "|---|---|---|"]
    for name, text in described:
        meaning = " ".join(text.split()).replace("``", "`")
        rows.append(f"| `{name}` | `{settings.ENVIRONMENT_PREFIX}{name.upper()}` | {meaning} |")
    return "\n".join(rows)


TABLES = {
    ("request.md", "job"): lambda: keys(Job),
    ("request.md", "params"): lambda: keys(Params),
    ("exit-codes.md", "commands"): lambda: exits(1, 19),
    ("exit-codes.md", "jobs"): lambda: exits(20, 99),
    ("pools.md", "settings"): setting_rows,
    ("service.md", "service.toml"): service_keys,
}


def main() -> None:
    """Write, or check."""
    stale = []
    for (name, mark), make in TABLES.items():
        path = DOCS / name
        text = path.read_text("utf-8")
        pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
        table = make()
        fresh = pattern.sub(rf"\g<1>{table}\n\g<2>", text)
        if fresh != text:
            stale.append(f"{name}: {mark}")
            if "--check" not in sys.argv:
                path.write_text(fresh, "utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/tables.py")


if __name__ == "__main__":
    main()
