"""The two ways in which a command ends early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crosscoder.errors import InputError as CrosscoderInputError
from taxonomy.errors import InputError as TaxonomyInputError


class UsageError(ValueError):
    """The call or the config is wrong (exit status 2); one line names the key and the mend."""


class WorkError(RuntimeError):
    """The work failed (exit status 1); what was finished is kept."""


@contextmanager
def wrong_input() -> Iterator[None]:
    """Raise what the packages below say of wrong input as the UsageError of this one."""
    try:
        yield
    except (CrosscoderInputError, TaxonomyInputError) as error:
        raise UsageError(str(error)) from error


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
