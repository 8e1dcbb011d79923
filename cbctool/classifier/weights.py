"""Weights files: safetensors that describe themselves, trusted by hash. Nothing is ever unpickled.

A file is trusted when ``registry.json`` of the shipped ``weights/`` folder names its sha256 (validated by the project),
or when a ``.sha256`` lies beside it, as ``cbctool train`` writes it (local). What is needed to use it is in its header:
architecture, class order, crop rule, calibration, held-out confusion and where it came from.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cbctool
from cbctool.errors import WeightsError
from cbctool.records import CLASSES, CROP_PX, CROP_UM, WeightsInfo

if TYPE_CHECKING:
    from torch import nn

# torch is imported where networks are built: what a file says about itself can be read without it, in milliseconds.

FORMAT = "cbctool-weights-1"
_KEY = "cbctool"
_CROP_RULE = f"{CROP_UM:g} um window, {CROP_PX}x{CROP_PX} px, Pillow bicubic"
_REFIT = "Fetch the file again, or use the weights shipped with cbctool by leaving --weights out."


@dataclass(frozen=True)
class Weights:
    """A network, ready to run, and what its file says about it."""

    network: nn.Module
    info: WeightsInfo


def weights_folder() -> Path:
    """The shipped weights: inside the installed package, or beside it in a checkout.

    Raises
    ------
    WeightsError
        If neither is there.
    """
    package = Path(cbctool.__file__).parent
    for folder in (package / "weights", package.parent / "weights"):
        if (folder / "registry.json").is_file():
            return folder
    raise WeightsError("The weights that ship with cbctool are not there.", "Install cbctool again.")


def read_registry(folder: Path | None = None) -> dict[str, Any]:
    """``{"default": file name, "sha256": {file name: hash}}`` of the shipped files."""
    path = (folder or weights_folder()) / "registry.json"
    try:
        registry: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}.", "Install cbctool again.") from error
    return registry


def default_weights() -> Path:
    """The file that is used where none is asked for."""
    folder = weights_folder()
    return folder / str(read_registry(folder)["default"])


def weights_info(path: Path | None = None) -> WeightsInfo:
    """What a trusted weights file says about itself, without building its network.

    Parameters and errors as :func:`load_weights`.
    """
    path = _resolve(path)
    return _verified(path, _read(path))[1]


def load_weights(path: Path | None = None) -> Weights:
    """Read, verify and build a network.

    Parameters
    ----------
    path : Path, optional
        A ``.safetensors`` file; None is the shipped default. A bare name such as ``paper`` or ``paper.safetensors``
        that is no file here means the shipped file of that name.

    Returns
    -------
    Weights
        The network in evaluation mode, single precision, on the CPU.

    Raises
    ------
    WeightsError
        If the file is missing, its hash is unknown or wrong, or it is not one of ours.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = _resolve(path)
    data = _read(path)
    header, info = _verified(path, data)
    try:
        network = build(header["architecture"], header["arguments"])
        tensors = load(data)
        if {name: t.shape for name, t in tensors.items()} != {n: t.shape for n, t in network.state_dict().items()}:
            raise WeightsError(
                f"{path} was made by another version of cbctool, whose network has other parts.",
                "Train it again with this version, or leave --weights out.",
            )
        network.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _not_ours(path, error) from error
    return Weights(network.eval(), info)


def save_weights(
    path: Path,
    network: nn.Module,
    info: WeightsInfo,
    arguments: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> WeightsInfo:
    """Write ``path`` (.safetensors) and ``path.sha256`` beside it, each whole or not at all.

    Parameters
    ----------
    info : WeightsInfo
        ``sha256`` and ``validated`` are ignored: the first is what is written, the second is the registry's to say.
    arguments : mapping, optional
        Keyword arguments of the architecture's class.
    extra : mapping, optional
        More about the training (options, seed, data hash) for the header.

    Returns
    -------
    WeightsInfo
        With the file's hash.
    """
    from safetensors.torch import save

    values = {f.name: getattr(info, f.name) for f in fields(info) if f.name not in ("sha256", "validated")}
    values["metrics"] = dict(info.metrics)
    header = {
        "format": FORMAT,
        "classes": [str(name) for name in CLASSES],
        "crop": f"{_CROP_RULE}, {'background at white' if info.white_balanced else 'as photographed'}",
        "arguments": dict(arguments or {}),
        **values,
        "extra": dict(extra or {}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    data = save(tensors, metadata={_KEY: json.dumps(_plain(header))})
    digest = hashlib.sha256(data).hexdigest()
    write_whole(path, data)
    write_whole(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n".encode())
    return WeightsInfo(sha256=digest, validated=False, **_info_fields(json.loads(json.dumps(_plain(header)))))


def read_header(path: Path) -> dict[str, Any]:
    """Everything a weights file says about itself, without building the network (the hash is not checked)."""
    return _header(_read(_resolve(path)))


def build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network by the name and arguments in a header, its weights still random."""
    from cbctool.classifier.model import ARCHITECTURES

    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    return ARCHITECTURES[architecture](**values)


def write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name in the same folder and rename, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _resolve(path: Path | None) -> Path:
    if path is None:
        return default_weights()
    if not path.exists() and path.parent == Path():
        shipped = weights_folder() / (path.name if path.suffix else f"{path.name}.safetensors")
        if shipped.is_file():
            return shipped
    return path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"There is no weights file {path}.", "Check the path of the weights.") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.", "Check the path of the weights.") from error


def _trust(path: Path, digest: str) -> bool:
    """True for a file the project validated, False for a local one with its hash beside it; refuses any other."""
    registry = read_registry()["sha256"]
    if digest in registry.values():
        return True
    expected = registry.get(path.name) if path.resolve().parent == weights_folder().resolve() else None
    if expected is None:
        beside = path.with_name(path.name + ".sha256")
        if not beside.is_file():
            raise WeightsError(
                f"{path} is not among the project's weights and has no {beside.name} beside it.",
                f"Copy {beside.name}, which cbctool train wrote with it, to the same folder.",
            )
        expected = (beside.read_text(encoding="utf-8", errors="replace").split() or [""])[0].lower()
    if digest != expected:
        raise WeightsError(
            f"{path} is not the file it should be: expected sha256 {expected}, got {digest}. "
            "It was damaged, or changed after its hash was written.",
            _REFIT,
        )
    return False


def _verified(path: Path, data: bytes) -> tuple[dict[str, Any], WeightsInfo]:
    """The header and record of a file whose hash is right and whose description can be used."""
    digest = hashlib.sha256(data).hexdigest()
    validated = _trust(path, digest)
    try:
        header = _header(data)
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format', 'not stated')!r}, not {FORMAT!r}")
        if header["classes"] != [str(name) for name in CLASSES]:
            raise ValueError("its classes or their order differ from cbctool's")
        return header, WeightsInfo(sha256=digest, validated=validated, **_info_fields(header))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_ours(path, error) from error


def _not_ours(path: Path, error: Exception) -> WeightsError:
    reason = (str(error).splitlines() or ["it cannot be read"])[0]
    return WeightsError(f"{path} is not a weights file of cbctool: {reason}.", _REFIT)


def _header(data: bytes) -> dict[str, Any]:
    """The description in a safetensors header: 8 bytes of length, then JSON with ``__metadata__``."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    header: dict[str, Any] = json.loads(metadata.get(_KEY, "{}"))
    return header


def _info_fields(header: Mapping[str, Any]) -> dict[str, Any]:
    wanted = [f.name for f in fields(WeightsInfo) if f.name not in ("sha256", "validated")]
    values = {name: header[name] for name in wanted if name in header}
    for name in ("confusion", "stain_od"):
        values[name] = tuple(tuple(row) for row in values.get(name, ()))
    for name in ("unknown_rate", "unknown_percentiles"):
        values[name] = tuple(values.get(name, ()))
    if values.get("unknown_above") is None:
        values["unknown_above"] = math.inf
    return values


def _plain(value: Any) -> Any:
    """JSON without infinities: an unlimited threshold is written as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
