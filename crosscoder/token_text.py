"""Tokens as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNKNOWN = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character, so the most tokens that one can be split over."""


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text that each token adds, so that the joined texts are the decoded document.

    A character split over several tokens is given to the last of them; the others are empty.
    Bytes that never make a character are left out.
    """
    texts: list[str] = []
    context = resolved = shown = waiting = 0
    for index in range(len(ids)):
        text = _decode(tokenizer, ids[context : index + 1])
        visible = text.rstrip(_UNKNOWN)
        waiting = waiting + 1 if len(visible) <= shown else 0
        whole = visible == text or waiting >= _LONGEST_CHARACTER
        texts.append(visible[shown:].replace(_UNKNOWN, ""))
        shown = max(shown, len(visible))
        if whole:
            # One finished token stays as context: some decoders drop a leading space.
            context, resolved, waiting = resolved, index + 1, 0
            shown = len(_decode(tokenizer, ids[context:resolved]))
    return texts


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
