"""Read-only questions to the database, and how their answers are printed."""

from labeler.sql.formatting import format_result
from labeler.sql.query import run_query
from labeler.sql.result import QueryResult

__all__ = ["QueryResult", "format_result", "run_query"]
