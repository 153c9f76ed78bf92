"""The text that all subject models read, and what each of its tokens is."""

from __future__ import annotations

from enum import IntEnum


class TokenRole(IntEnum):
    """What a token is; only USER, ASSISTANT and PLAIN tokens are content."""

    TEMPLATE = 0
    """Inserted by the chat template: markers, role names, a default system prompt."""
    BOS = 1
    """The tokenizer's beginning-of-sequence token."""
    SYSTEM = 2
    """Content of a system message of the document."""
    USER = 3
    """Content of a user message."""
    ASSISTANT = 4
    """Content of an assistant message."""
    PLAIN = 5
    """Text of a document without messages."""


CONTENT_ROLES = (TokenRole.USER, TokenRole.ASSISTANT, TokenRole.PLAIN)
"""Roles whose tokens may take part in training, scaling and evidence."""
