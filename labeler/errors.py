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
