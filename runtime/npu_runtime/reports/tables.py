"""Results as text, JSON and CSV: rows of equal keys, units in the keys, provenance on top."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of equal keys, with what identifies them.

    Attributes:
        schema: name and version of the rows' keys.
        provenance: tool, instruction set, machine, model, binary, and what else the rows depend on.
        hidden: keys that the text for people leaves out.
    """

    schema: str
    provenance: dict[str, str]
    rows: tuple[Row, ...]
    hidden: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the table as JSON: `schema`, `provenance`, `rows`; equal tables give equal text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the table as `to_json` writes it."""
        return {"schema": self.schema, "provenance": self.provenance, "rows": list(self.rows)}

    def to_csv(self) -> str:
        """Return the table as CSV after `# key: value` lines; what is missing is empty."""
        out = io.StringIO()
        for key, value in (self.provenance | {"schema": self.schema}).items():
            out.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(out, list(self.rows[0]) if self.rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in self.rows)
        return out.getvalue()

    def to_text(self) -> str:
        """Return an aligned table for people: counts that are 0 in every row are left out; no unit means cycles."""
        unused = {k for k in self.rows[0] if k.endswith("_cycles") and not any(row[k] for row in self.rows)}
        hidden = unused | set(self.hidden)
        return text_table([{k.removesuffix("_cycles"): v for k, v in r.items() if k not in hidden} for r in self.rows])


def text_table(rows: Sequence[Row] | Iterable[Row]) -> str:
    """Return rows of equal keys as aligned text, as wide as it must be; numbers stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    rows = list(rows)
    table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, value in rows[0].items():
        is_number = not isinstance(value, str) or re.fullmatch(r"[-+±\d., ]+", value)
        table.add_column(name.replace("_", " "), justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(v) for v in row.values()))
    console = Console(file=io.StringIO(), width=10_000, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def cell(value: Any) -> str:
    """Return a value as a person reads it: thousands separated, `-` for what is missing."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
