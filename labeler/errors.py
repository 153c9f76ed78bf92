"""The two ways in which a command ends early.

UsageError: the call, the config or a file is wrong (exit status 2); one line names the key and the
fix. WorkError: the work failed (exit status 1); what was finished is kept. Both are the crosscoder
package's classes; `taxonomy`, which knows no other package, has an InputError of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crosscoder.errors import InputError as UsageError
from crosscoder.errors import WorkError
from taxonomy.errors import InputError as TaxonomyInputError

__all__ = ["USAGE_ERRORS", "Place", "UsageError", "WorkError", "doing"]

USAGE_ERRORS = (UsageError, TaxonomyInputError)
"""All that say that something given is wrong."""


class Place(str):
    """A note on an error: what was being done when it happened."""

    __slots__ = ()


@contextmanager
def doing(words: str) -> Iterator[None]:
    """Note on whatever error leaves the block what was being done: a stage, a file, a row.

    The command line prints these places, outermost first, for errors that do not say themselves
    what is wrong.
    """
    try:
        yield
    except Exception as error:
        error.add_note(Place(words))
        raise
