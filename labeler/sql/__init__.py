"""Read-only questions to the database, and how their answers are printed.

The names are loaded when they are first used: the process that runs a question imports this
package too, and starts in a fraction of the time without what only the asking side needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labeler.sql.formatting import for_terminal, format_result, shown_number
    from labeler.sql.query import run_query
    from labeler.sql.result import QueryResult

__all__ = ["QueryResult", "for_terminal", "format_result", "run_query", "shown_number"]
_MODULES = {
    "QueryResult": "result",
    "for_terminal": "formatting",
    "format_result": "formatting",
    "run_query": "query",
    "shown_number": "formatting",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
