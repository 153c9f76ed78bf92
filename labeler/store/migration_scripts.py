"""Where the migrations lie: inside the package when installed, beside it in a clone."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL

from labeler.errors import WorkError

_PACKAGE = Path(__file__).resolve().parents[1]


def scripts_folder() -> Path:
    """The folder of env.py and versions/; WorkError when the installation lacks it."""
    for folder in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise WorkError("the installation lacks its migrations; install difflens again")


def alembic_config(url: str | URL | None = None) -> Config:
    """Alembic's config, built here so that no alembic.ini is needed."""
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if url is not None:
        config.attributes["url"] = url
    return config


def scripts() -> ScriptDirectory:
    """The migrations."""
    return ScriptDirectory.from_config(alembic_config())


def head_revision() -> str:
    """The newest revision this version of difflens knows."""
    head = scripts().get_current_head()
    if head is None:
        raise WorkError("the installation has no migrations; install difflens again")
    return head


def is_known(revision: str) -> bool:
    """Whether this version of difflens has that revision."""
    return any(script.revision == revision for script in scripts().walk_revisions())
