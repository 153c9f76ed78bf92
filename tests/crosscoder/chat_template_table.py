"""Chat templates as models bring them: some keep every message whole, others rewrite it."""

from __future__ import annotations

import random

from crosscoder.corpus import Document, Message

_TURN = "<|im_start|>{{ m['role'] }}\n%s<|im_end|>\n"


def chat_ml(content: str) -> str:
    """A template of the ChatML kind that writes `content`, an expression of `m`, in each turn."""
    return "{{ bos_token }}{% for m in messages %}" + _TURN % content + "{% endfor %}"


KEEP_WHOLE = {
    "chat_ml": chat_ml("{{ m['content'] }}"),
    "trimmed": chat_ml("{{ m['content'] | trim }}"),
    "default_system": (
        "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}{% for m in messages %}"
        + _TURN % "{{ m.content }}" + "{% endfor %}"
    ),
    "header_ids": (
        "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + "
        "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}"
        "{% set c = bos_token + c %}{% endif %}{{ c }}{% endfor %}"
    ),
    "instruction": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "system_in_user_turn": (
        "{% set ns = namespace(system='') %}{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}{% else %}"
        "{{ 'User: ' if m.role == 'user' else 'Assistant: ' }}"
        "{% if m.role == 'user' %}{{ ns.system }}{% set ns.system = '' %}{% endif %}"
        "{{ m.content }}\n{% endif %}{% endfor %}"
    ),
    "role_names_changed": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    ),
    "generation_marked": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}"
        + _TURN % "{{ m.content }}" + "{% endif %}{% endfor %}"
    ),
    "dated": (
        "{{ bos_token }}{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today: {{ date_string }}\n"
        "{% for m in messages %}" + _TURN % "{{ m.content }}" + "{% endfor %}"
    ),
}  # fmt: skip
"""Templates that change nothing of a message but the white space around it."""

_THINKING = (
    "{% set c = m['content'] %}{% if m['role'] == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ c }}"
)
REWRITE = {
    "collapsed": chat_ml("{{ m['content'].split() | join(' ') }}"),
    "thinking_dropped": chat_ml(_THINKING),
    "json_escaped": chat_ml("{{ m['content'] | tojson }}"),
    "json_ascii": chat_ml("{{ m['content'] | tojson(ensure_ascii=true) }}"),
    "html_escaped": chat_ml("{{ m['content'] | e }}"),
    "parts_only": chat_ml(
        "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
        "{% endfor %}"
    ),
    "thinking_written_again": chat_ml(
        "{% set c = m['content'] %}{% if m['role'] == 'assistant' %}{% set t = '' %}"
        "{% if '</think>' in c %}{% set t = c.split('</think>')[0].rstrip('\n')"
        ".split('<think>')[-1].lstrip('\n') %}{% set c = c.split('</think>')[-1].lstrip('\n') %}"
        "{% endif %}{{ '<think>\n' + t.strip('\n') + '\n</think>\n\n' + c.lstrip('\n') }}"
        "{% else %}{{ c }}{% endif %}"
    ),
    "content_counted": chat_ml("{{ 'long ' if m['content'] | length > 8 }}{{ m['content'] }}"),
}
"""Templates that change the text inside messages."""


def conversations(seed: int, count: int) -> list[Document]:
    """Chats that a careless search would misread: role names, quotes, repeats, empty turns."""
    draw = random.Random(seed)
    phrases = (
        "user",
        "assistant",
        "a",
        "",
        "  ",
        "How do I bake bread?",
        "Mix flour.\n\nThen bake it.",
        "<|im_start|>user\nuser<|im_end|>",
        "Assistant: yes\nUser: no",
        '\n said "hi" & left <b>\n',
        "La capitale de la France est Paris.",
        "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0",
        "[INST] x [/INST]",
        "tab\tand \\n and \u2028 too",
        "<think>\nThe user asks.\n</think>\n\nMix flour.",
        "e\u0301 \U0001f600",
    )
    documents = []
    for number in range(count):
        roles = ["user", "assistant"] * draw.randint(1, 3)
        roles = ["system", *roles] if draw.random() < 0.3 else roles
        contents = ["\n".join(draw.choices(phrases, k=draw.randint(1, 3))) for _ in roles]
        if draw.random() < 0.3:
            contents[-1] = contents[draw.randrange(len(contents))]
        messages = tuple(Message(role, text) for role, text in zip(roles, contents, strict=True))
        documents.append(Document(f"chat-{number}", messages=messages))
    return documents
