"""Search for bundles by name, by folder and by fingerprint.

It reads manifests only, no weights.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdcodec.errors import BundleError
from sdcodec.temporaries import remove_abandoned, temporary_folder

LAYOUT = 2  # version of the folder's layout; 1 was never released, and benchmarks/convert_bundle.py converts it
MANIFEST = "bundle.json"
SHIPPED = Path(__file__).parent
DEFAULT = "base"  # the default model
FINGERPRINT_BYTES = 4  # of the 32, in every file
COMPLEXITY = "kmac_per_pixel"  # entry of a description: operations of encoder, decoder and prior


@dataclass(frozen=True)
class PriorEntry:
    """One prior of a bundle with its quantiser.

    `kind` names the class (see `sdcodec.bundles.loading`), `file` the safetensors file; `fingerprint` is the whole
    SHA-256, 32 bytes.
    """

    kind: str
    file: str
    fingerprint: bytes
    configuration: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class DenoiserEntry:
    """The UNet of a bundle: `kind` names the class, `file` the safetensors file.

    No fingerprint covers it.
    """

    kind: str
    file: str
    configuration: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A model's manifest.

    `priors[0]` encodes; the others decode earlier files. `default_realism`, 0..1, is that of its decoder; None
    without a vivid decoder.
    """

    folder: Path
    name: str
    autoencoder: str
    autoencoder_file: str
    configuration: dict[str, Any]
    priors: tuple[PriorEntry, ...]
    description: dict[str, Any]
    denoiser: DenoiserEntry | None = None
    default_realism: float | None = None

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.configuration["latent_channels"])

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return int(self.configuration["factor"])

    def prior_for(self, fingerprint: bytes) -> PriorEntry | None:
        """Return the prior whose fingerprint begins with these bytes."""
        return next((entry for entry in self.priors if entry.fingerprint.startswith(fingerprint)), None)


def home() -> Path:
    """Return the folder of the user's models.

    It is `$SDCODEC_HOME`, or a folder of this program among the user's data.
    """
    if chosen := os.environ.get("SDCODEC_HOME"):
        return Path(chosen)
    import platformdirs  # slow to import, and not needed with $SDCODEC_HOME

    return Path(platformdirs.user_data_dir("sdcodec", appauthor=False))


def read_manifest(folder: Path) -> Bundle:
    """Read the bundle in a folder.

    Raises BundleError if there is none, or one that this version cannot read.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{folder}: no model ({MANIFEST} cannot be read: {error.strerror})") from error
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error}); the model is damaged, install it again") from error
    try:
        if values["layout"] != LAYOUT:
            raise BundleError(
                f"{path}: bundle layout {values['layout']}, this version reads {LAYOUT}; "
                + ("install a newer sdcodec" if values["layout"] > LAYOUT else "add or train the model again")
            )
        priors = tuple(
            PriorEntry(p["class"], p["file"], bytes.fromhex(p["fingerprint"]), p["configuration"])
            for p in values["priors"]
        )
        autoencoder, denoiser = values["autoencoder"], values.get("denoiser")
        if not priors or any(len(entry.fingerprint) != 32 for entry in priors):
            raise BundleError(f"{path}: a prior or its fingerprint is missing; the model is damaged, install it again")
        bundle = Bundle(
            folder=folder,
            name=values["name"],
            autoencoder=autoencoder["class"],
            autoencoder_file=autoencoder["file"],
            configuration=autoencoder["configuration"],
            priors=priors,
            description=values.get("description", {}),
            denoiser=denoiser and DenoiserEntry(denoiser["class"], denoiser["file"], denoiser["configuration"]),
            default_realism=_default_realism(path, autoencoder),
        )
        _ = bundle.channels, bundle.factor  # every autoencoder's configuration has them
        return bundle
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: incomplete ({error}); the model is damaged, install it again") from error


def _default_realism(path: Path, autoencoder: dict[str, Any]) -> float | None:
    """Return the default realism of an autoencoder's entry.

    Raises BundleError if it does not fit the configuration, or is no number from 0 to 1.
    """
    value = autoencoder.get("default_realism")
    if (value is not None) != bool(autoencoder["configuration"].get("realism")):
        reason = "the decoder has no realism" if value is not None else "the decoder's is missing"
        raise BundleError(f"{path}: default_realism {value}: {reason}; install the model again")
    if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
        raise BundleError(f"{path}: default_realism {value!r} is no number from 0 to 1; install the model again")
    return None if value is None else float(value)


def find(model: str | os.PathLike[str]) -> Bundle:
    """Find a bundle by its name or by its folder.

    Raises BundleError with the names that are known.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise BundleError(f"model {model!r} is not a name; give the name of a model, or its folder")
    text = os.fspath(model)
    if os.sep in text or "/" in text or text in (".", "..") or os.path.isfile(os.path.join(text, MANIFEST)):
        return read_manifest(Path(text))
    for folder in _folders():
        if folder.name == text:
            return read_manifest(folder)
    known = ", ".join(sorted({folder.name for folder in _folders()})) or "none"
    raise BundleError(f"unknown model {text!r}; known are: {known}; a folder is given with a slash in it")


def by_fingerprint(fingerprint: bytes) -> Bundle | None:
    """Find the bundle that wrote files with these 4 bytes, with any of its priors.

    The bundle's name has no influence. Returns None if there is none.
    """
    for folder in _folders():
        try:
            bundle = read_manifest(folder)
        except BundleError:
            continue  # a broken neighbour must not keep others from being found
        if bundle.prior_for(fingerprint):
            return bundle
    return None


def that_wrote(fingerprint: bytes, model: str | os.PathLike[str] | None = None) -> Bundle:
    """Find the bundle that decodes files with these 4 bytes, or check `model`.

    Raises BundleError if there is none, or `model` is another one.
    """
    if model is not None:
        bundle = find(model)
        if bundle.prior_for(fingerprint) is None:
            raise other_model(fingerprint, bundle)
        return bundle
    found = by_fingerprint(fingerprint)
    if found is None:
        raise BundleError(
            f"made with a model that is not installed (fingerprint {fingerprint.hex()}); "
            "install it, or give its folder as model"
        )
    return found


def other_model(fingerprint: bytes, bundle: Bundle) -> BundleError:
    """Return the error for a file with these 4 bytes, of which `bundle` has no prior."""
    found, own = by_fingerprint(fingerprint), bundle.priors[0].fingerprint.hex()[:8]
    wrote = fingerprint.hex()
    made = f"model {found.name!r} (fingerprint {wrote})" if found else f"a model with fingerprint {wrote}"
    return BundleError(
        f"made with {made}, not with {bundle.name!r} (fingerprint {own}); leave the model out, or install the right one"
    )


def installed() -> list[Bundle]:
    """Return every model that can be read, shipped ones first."""
    found = []
    for folder in _folders():
        with contextlib.suppress(BundleError):  # a broken neighbour must not keep others from being shown
            found.append(read_manifest(folder))
    return found


def is_shipped(bundle: Bundle) -> bool:
    """Return whether the bundle is part of this program."""
    return bundle.folder.parent == SHIPPED


def is_installed(bundle: Bundle) -> bool:
    """Return whether the bundle is found by its name.

    It is if it came with this program, or was added to the user's models.
    """
    folder = bundle.folder.resolve()
    return any(folder == (place / folder.name).resolve() for place in (SHIPPED, home()))


def remove(name: str) -> Path:
    """Delete a model of the user, broken or not, and return its folder.

    Raises BundleError if there is none of this name.
    """
    folder = home() / name
    if not name or Path(name).name != name or not (folder / MANIFEST).is_file():
        own = ", ".join(sorted(found.name for found in _folders() if found.parent != SHIPPED)) or "none"
        raise BundleError(f"{name!r} was not added; added models are: {own}")
    remove_abandoned(folder.parent)
    with temporary_folder(folder.parent) as place:
        os.rename(folder, place / name)  # no half model ever has its name
    return folder


def _folders() -> Iterator[Path]:
    """Yield every folder with a manifest: shipped models first, then the user's.

    Folders whose names begin with a dot are unfinished.
    """
    for place in (SHIPPED, home()):
        if place.is_dir():
            yield from sorted(f for f in place.iterdir() if f.name[0] != "." and (f / MANIFEST).is_file())
