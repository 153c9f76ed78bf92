"""Chat templates are foreign programs: bounded, their clock stands, their words are kept."""

from __future__ import annotations

import time
from datetime import date

import pytest
from chat_template_table import KEEP_WHOLE, REWRITE, conversations
from tiny_models import tiny_tokenizer

from crosscoder import limits
from crosscoder.chat_templates import ChatTemplate, Refusal
from crosscoder.errors import InputError

DAY = date(2024, 2, 29)
CHAT = [{"role": "user", "content": "Hi"}]


def rendered(template: str, content: str = "Hi") -> str | Refusal:
    with ChatTemplate(tiny_tokenizer(template), DAY, "tuned") as opened:
        (text,) = opened.render([[{"role": "user", "content": content}]], "corpus.jsonl:1")
    return text


@pytest.mark.parametrize("name", [*KEEP_WHOLE, *REWRITE])
def test_a_template_writes_what_transformers_writes(name: str) -> None:
    tokenizer = tiny_tokenizer({**KEEP_WHOLE, **REWRITE}[name])
    chats = [
        [
            {"role": m.role, "content": [{"type": "text", "text": m.content}]}
            if name == "parts_only"
            else {"role": m.role, "content": m.content}
            for m in document.messages or ()
        ]
        for document in conversations(2, 20)
    ]
    with ChatTemplate(tokenizer, DAY, "tuned") as template:
        texts = template.render(chats, "corpus")
    assert texts == tokenizer.apply_chat_template(chats, tokenize=False, date_string="29 Feb 2024")


BEYOND = r"model 'tuned' (makes|takes|needs) more than [\d.,]+ (characters|seconds|bytes)"
NO_TEMPLATE = r"model 'tuned'(: no valid template| ended the process)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ 'a' * 10**10 }}", BEYOND),
        ("{{ messages[0].content * 10**8 }}", BEYOND),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", BEYOND),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", BEYOND),
        (
            "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
            "{% endfor %}{{ ns.x }}",
            BEYOND,
        ),
        ("{{ '%9999999999d' % 1 }}", BEYOND),
        ("{{ '{:>9999999999}'.format('a') }}", BEYOND),
        ("{{ 'a' | center(10**10) }}", BEYOND),
        ("{{ ([1] * 10**10) | length }}", BEYOND),
        ("{{ 'a'.ljust(10**10) }}", BEYOND),
        ("{{ 10 ** (10 ** 9) }}", BEYOND),
        ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", None),
        ("{{ range(10**9) }}", None),
        ("{{ lipsum(n=10**9) }}", None),
        ("{{ ''.__class__.__mro__ }}", None),
        ("{{ namespace(__init__=1) }}", None),
        ("{{ cycler.__init__.__globals__ }}", None),
        ("{% include 'other' %}", None),
        ("{% for %}", NO_TEMPLATE),
        ("{{ " + "(" * 30000, NO_TEMPLATE),
    ],
)
def test_a_template_without_bounds_ends_in_one_line(
    template: str, complaint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_RENDER_SECONDS", 0.5)
    started = time.monotonic()
    if complaint is None:
        refusal = rendered(template)
        assert isinstance(refusal, Refusal)
        assert "\n" not in refusal.reason
    else:
        with pytest.raises(InputError, match=complaint) as caught:
            rendered(template)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 60


def test_the_clock_of_a_template_stands_and_nothing_is_drawn() -> None:
    template = "{{ strftime_now('%d %B %Y %H:%M') }} {{ date_string }} {{ [1, 2, 3] | random }}"
    assert rendered(template) == "29 February 2024 00:00 29 Feb 2024 1"


def test_the_words_of_a_refusal_are_one_printable_line() -> None:
    refusal = rendered("{{ raise_exception('No \x1b[31msystem\n role') }}")
    assert refusal == Refusal("No  [31msystem role")


def test_a_template_renders_on_after_a_refusal() -> None:
    template = "{% if messages[0].content == 'x' %}{{ raise_exception('no') }}{% endif %}ok"
    with ChatTemplate(tiny_tokenizer(template), DAY, "tuned") as opened:
        chats = [[{"role": "user", "content": content}] for content in ("x", "y")]
        assert opened.render(chats, "corpus") == [Refusal("no"), "ok"]
