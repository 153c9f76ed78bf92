"""No password and no key is printed or stored, however it was given."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from labeler.review.access import Access
from labeler.review.server import ServerOptions
from labeler.store.database_url import parse_url, shown_url
from labeler.store.engine import open_engine, write_session
from labeler.store.runs import begin_run, finish_run
from labeler.store.secrets import MaskedStream, Secrets, masked

VALUE = "hunter2-s3cret"

TEXTS = [
    f"postgresql://me:{VALUE}@host/db",
    f"postgresql://me:{VALUE}%40@host:5432/db?sslmode=require",
    f"postgresql://host/db?user=me&password={VALUE}",
    f"cannot reach 'postgresql+psycopg://me:{VALUE}@h/db' now",
    f"https://h/v1?api_key={VALUE}&x=1",
    f"https://h/v1?x=1&access_token={VALUE}",
    f"http://me:{VALUE}@proxy:3128",
    f"host=h user=me password={VALUE} dbname=d",
    f"host=h password = '{VALUE} with spaces' dbname=d",
    f"sslpassword={VALUE}",
]


@pytest.mark.parametrize("words", TEXTS)
def test_urls_and_connection_strings_are_masked(words: str) -> None:
    assert VALUE not in masked(words)
    assert "***" in masked(words)


@pytest.mark.parametrize(
    "words",
    [
        "http://127.0.0.1:8400/latents/3?mine=todo",
        "sqlite:////tmp/a:b@c/difflens.db",
        "train: 3:20 left at 2@x",
        "judge.params.max_tokens=5",
        "http://host:8000/a@b?max=3",
    ],
)
def test_what_is_no_secret_stays(words: str) -> None:
    assert masked(words) == words


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{VALUE}@host/db",
        f"postgresql://me@host/db?password={VALUE}",
        f"postgresql://me@host/db?sslpassword={VALUE}",
        "postgresql://me:${PW}@host/db",
        "postgresql://me@host/db?password=${PW}",
        "${URL}",
    ],
)
def test_a_url_is_shown_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", VALUE)
    monkeypatch.setenv("URL", f"postgresql://me:{VALUE}@host/db")
    assert VALUE not in shown_url(url)
    if "ssl" not in url:
        assert VALUE not in repr(parse_url(url)) + repr(open_engine(url))


def study_with(folder: Path, url: str) -> Path:
    path = folder / "study.toml"
    path.write_text(f'[database]\nurl = "{url}"\n', encoding="utf-8")
    return path


def test_the_values_of_a_call_are_known(tmp_path: Path) -> None:
    study = study_with(tmp_path, "postgresql://me:${PW}@host/${PLACE}")
    study.write_text(study.read_text() + '[judge]\napi_key_env = "JUDGE"\n', encoding="utf-8")
    environment = {
        "PW": "p@ss word", "JUDGE": "sk-12345", "PLACE": "/data", "HOME": "/root",
        "OPENAI_API_KEY": "sk-other", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    arguments = ["review", str(study), "--token", "given-by-hand"]
    known = Secrets.of_call(arguments, environment)
    line = "p@ss word, p%40ss%20word, sk-12345, sk-other, given-by-hand; /data /root false"
    assert known.masked(line) == "***, ***, ***, ***, ***; /data /root false"
    assert "sk-12345" not in repr(known)


def test_a_stream_lets_no_secret_through() -> None:
    inner = io.StringIO()
    stream = MaskedStream(inner, Secrets.of([VALUE]))
    print(f"Traceback: {VALUE} in unhunter2-s3crets", file=stream)
    stream.writelines([f"{VALUE}\n"])
    assert inner.getvalue() == "Traceback: *** in unhunter2-s3crets\n***\n"
    assert not stream.isatty()


CALLS = [
    ("status", "{study}"),
    ("sql", "{study}", "select 1"),
    ("import", "{study}", "nothing.csv"),
    ("report", "{study}"),
    ("labels", "export", "{study}", "out.csv"),
    ("review", "{study}"),
    ("db", "upgrade", "{url}"),
    ("db", "current", "{url}"),
    ("db", "check", "{url}"),
    ("db", "copy", "{url}", "sqlite:///copy.db"),
    ("db", "copy", "sqlite:///{folder}/empty.db", "{url}"),
    ("db", "reader", "{url}"),
]
URLS = [
    f"postgresql://me:{VALUE}@127.0.0.1:1/db",
    f"postgresql://me@127.0.0.1:1/db?password={VALUE}",
    "postgresql://me:${PW}@127.0.0.1:1/db",
    "postgresql://me@127.0.0.1:1/db?password=${PW}",
    f"postgresql://me@127.0.0.1:1/db?password={VALUE}&no_such_option=1",
    f"postgresql://me:{VALUE}@127.0.0.1:1x/db",
    f"mysql://me:{VALUE}@127.0.0.1/db",
]


@pytest.mark.slow
def test_no_command_prints_a_password(tmp_path: Path) -> None:
    calls = [(CALLS[number % len(CALLS)], url) for number, url in enumerate(URLS * 2)]
    calls += [(call, URLS[3]) for call in CALLS]
    script = (
        "import sys, labeler.cli.main as m\n"
        "for line in sys.stdin.read().split('\\n'):\n"
        "    sys.argv = ['difflens', *line.split('\\t')]\n"
        "    try: m.main()\n"
        "    except SystemExit as ended: print(ended.code)\n"
        "    except BaseException as error: print('escaped', type(error))\n"
    )
    lines = []
    for number, (call, url) in enumerate(calls):
        folder = tmp_path / str(number)
        folder.mkdir()
        study = study_with(folder, url)
        words = [word.format(study=study, url=url, folder=tmp_path) for word in call]
        lines.append("\t".join(words))
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PW": VALUE},
        check=True,
    )
    assert VALUE not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert set(done.stdout.split()) <= {"1", "2"}, done.stdout + done.stderr


def test_no_run_holds_a_password(engine: Engine) -> None:
    config = {"database": {"url": f"postgresql://me:{VALUE}@host/db"}, "n": [1, None, VALUE[:3]]}
    with write_session(engine) as session:
        run_id = begin_run(session, "train", config, stage_key="k")
        assert begin_run(session, "train", config, stage_key="k") == run_id
        finish_run(session, run_id, "failed", {"error": f"at https://h/?api_key={VALUE}"})
    with engine.connect() as connection:
        stored = connection.execute(text("select config, result from run")).all()
    assert VALUE not in str(stored)
    assert "n" in str(stored)


def test_what_a_server_knows_is_not_in_its_repr() -> None:
    access = Access.build(VALUE * 2, None, b"noise")
    assert VALUE not in repr(access) + repr(ServerOptions(token=VALUE))
    assert access.secret.hex() not in repr(access)
    assert repr(access.secret) not in repr(access)
