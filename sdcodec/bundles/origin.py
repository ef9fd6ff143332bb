"""Origin of a model to be added: a folder or a repository of the hub.

It has a revision and a licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sdcodec.bundles.diffusers_folder import CONFIGURATION, PICKLES, WEIGHTS
from sdcodec.errors import BundleError

LICENCES = {
    "creativeml-openrail-m": "CreativeML Open RAIL-M",
    "bigscience-openrail-m": "BigScience Open RAIL-M",
    "openrail++": "CreativeML Open RAIL++-M",
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
}
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE")
_UNSTATED = "not stated; ask whoever made the model"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Origin:
    """A model's files on this machine.

    `revision` is the hub's commit; None for a folder of the user.
    """

    folder: Path
    name: str
    revision: str | None
    licence: str
    licence_link: str | None = None

    @property
    def licence_file(self) -> Path | None:
        """File with the text of the licence, if there is one."""
        return next((path for path in map(self.folder.joinpath, LICENCE_FILES) if path.is_file()), None)


def find(source: str, *, revision: str | None = None, unet: bool = False, half: bool = False) -> Origin:
    """Return a folder as it is, or the needed files of a repository of the hub.

    source: a folder, or OWNER/NAME on the hub. revision: a branch, tag or commit there. unet: also the files of
        `--unet`.
    half: float16 weights, if the repository has them separately. Files come from the hub or its cache.

    Raises BundleError.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise BundleError(f"{source}: a folder has no revisions; leave --revision out, or give the hub's name")
        return _described(path, source, None)
    if path.is_file():
        raise BundleError(
            f"{source}: a single file; give a folder as diffusers writes it, with config.json and safetensors"
        )
    if not _HUB_NAME.fullmatch(source) or source.startswith("."):
        raise BundleError(f"{source}: no such folder, and no name of a repository of the hub (OWNER/NAME)")
    folder = _fetched(source, revision, unet, half)
    return _described(folder, source, folder.name)


def wanted_files(files: Iterable[str], unet: bool, half: bool) -> list[str]:
    """Select a repository's needed files: configurations, safetensors, licence.

    Of two precisions it selects one.
    """
    names = set(files)
    folders = ["", "vae/"] if not unet else ["", "vae/", "unet/", *_text_folders(names)]
    chosen = {name for name in names if name in ("README.md", "model_index.json", *LICENCE_FILES)}
    for folder in folders:
        inside = {name for name in names if str(PurePosixPath(name).parent) == (folder.rstrip("/") or ".")}
        chosen |= {name for name in inside if name.endswith((".json", ".txt")) and (folder or name == CONFIGURATION)}
        stem = "model" if folder.startswith("text_encoder") else WEIGHTS
        for infix in (".fp16", "", ".bf16") if half else ("", ".fp16", ".bf16"):
            weights = {name for name in inside if _is_weight(name.removeprefix(folder), stem + infix)}
            if weights:
                chosen |= weights
                break
    return sorted(chosen)


def _text_folders(names: set[str]) -> list[str]:
    parts = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return [f"{part}/" for part in parts if any(name.startswith(f"{part}/") for name in names)]


def _is_weight(name: str, stem: str) -> bool:
    return re.fullmatch(re.escape(stem) + r"(-\d+-of-\d+)?\.safetensors", name) is not None


def _fetched(name: str, revision: str | None, unet: bool, half: bool) -> Path:
    """Return the folder of the snapshot, named after its commit."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise BundleError(
            f"the hub needs the package {error.name}; install sdcodec with its extra, pip install 'sdcodec[sd]', or give a folder"
        ) from error
    try:
        about = hub.HfApi().model_info(name, revision=revision)
        files = [sibling.rfilename for sibling in about.siblings or []]
        _refuse_pickles(name, files)
        chosen = wanted_files(files, unet, half)
        return Path(hub.snapshot_download(name, revision=about.sha, allow_patterns=chosen))
    except errors.GatedRepoError as error:
        raise BundleError(
            f"{name}: its owner asks you to accept a licence first; do so on its page, then log in to the hub"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"{name}: no revision {revision!r}; give a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(f"{name}: no such folder, and no such repository on the hub (or a private one)") from error
    except errors.HFValidationError as error:
        raise BundleError(f"{name}: no such folder, and no name on the hub; give a folder, or OWNER/NAME") from error
    except Exception as error:
        if not _is_no_connection(error):
            raise
        reason = "is switched off" if isinstance(error, errors.OfflineModeIsEnabled) else "cannot be reached"
    try:
        return Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{name}: the hub {reason}, and the model is not in its cache; fetch the model's folder on a machine that reaches "
            "it, copy it here, and give it: --from FOLDER"
        ) from error


def _is_no_connection(error: Exception) -> bool:
    """Return whether an error is one of the connection.

    The hub package chose different HTTP clients over time; not all of their errors are OSErrors.
    """
    return isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))


def _refuse_pickles(name: str, files: list[str]) -> None:
    relevant = [file for file in files if file.startswith("vae/") or "/" not in file]
    if not any(file.endswith(".safetensors") for file in relevant) and any(f.endswith(PICKLES) for f in relevant):
        raise BundleError(
            f"{name}: its weights are pickled, which may run code, and are not loaded; look for a revision with safetensors"
        )


def _described(folder: Path, name: str, revision: str | None) -> Origin:
    card = _card(folder)
    stated = card.get("license")
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    if stated in (None, "", "other"):
        stated = card.get("license_name") or stated
    link = card.get("license_link")
    return Origin(folder, name, revision, LICENCES.get(str(stated), str(stated)) if stated else _UNSTATED, link)


def _card(folder: Path) -> dict[str, Any]:
    """Return the front matter of the model card, between two lines of dashes.

    It is empty if there is none.
    """
    import yaml  # a dependency of the hub's package

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        front = text.split("---", 2)[1] if text.startswith("---") else ""
        values = yaml.safe_load(front)
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
