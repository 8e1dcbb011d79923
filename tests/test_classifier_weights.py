"""Weights files: what is trusted, what is refused, what a file says about itself."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cbctool.classifier.model import PaperNet, SmearNet
from cbctool.classifier.weights import (
    default_weights,
    load_weights,
    read_header,
    read_registry,
    save_weights,
    weights_folder,
    weights_info,
)
from cbctool.errors import ExitCode, WeightsError
from cbctool.records import CLASSES, WeightsInfo

INFO = WeightsInfo(
    name="lab",
    sha256="",
    architecture="smear",
    validated=False,
    trained_on="a test",
    date="2026-01-01",
    temperature=0.9,
    abstain_below=0.5,
    unknown_above=1.5,
    confusion=((1, 0), (0, 2)),
    unknown_rate=(0.1, 0.2),
    stain_od=((0.1, 0.2, 0.3),) * 3,
    metrics={"accuracy": 0.5},
    unknown_percentiles=(-3.0, -2.0, -1.0),
)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "lab.safetensors"
    save_weights(path, SmearNet(), INFO)
    return path


def test_what_is_saved_comes_back(lab: Path) -> None:
    weights = load_weights(lab)
    assert replace(weights.info, sha256="") == INFO
    assert weights.info == weights_info(lab)
    assert not weights.info.validated
    assert not weights.network.training


def test_the_header_names_classes_and_crop_rule(lab: Path) -> None:
    header = read_header(lab)
    assert header["classes"] == [str(name) for name in CLASSES]
    assert header["crop"].startswith("19 um")
    assert header["crop"].endswith("background at white")
    shipped = weights_folder()
    assert weights_info(shipped / "default.safetensors").white_balanced
    assert not weights_info(shipped / "paper.safetensors").white_balanced


def test_an_unlimited_threshold_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, PaperNet(), replace(INFO, architecture="paper", unknown_above=math.inf))
    assert weights_info(path).unknown_above == math.inf


def test_other_arguments_build_another_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, SmearNet((8, 16), (0, 1)), INFO, {"widths": (8, 16), "blocks": (0, 1)})
    assert load_weights(path).network.own.in_features == 16


def test_a_changed_byte_is_refused(lab: Path) -> None:
    data = bytearray(lab.read_bytes())
    data[-1] ^= 1
    lab.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match=r"expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}") as caught:
        load_weights(lab)
    assert caught.value.exit_code == ExitCode.WEIGHTS


def test_a_file_without_its_hash_is_refused(lab: Path) -> None:
    lab.with_name(lab.name + ".sha256").unlink()
    with pytest.raises(WeightsError, match=r"no lab\.safetensors\.sha256 beside it"):
        weights_info(lab)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no weights file"):
        load_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    import hashlib

    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    path.with_name("w.safetensors.sha256").write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(WeightsError, match="is not a weights file of cbctool"):
        load_weights(path)


def test_a_network_of_another_version_is_refused(tmp_path: Path) -> None:
    info = weights_info(None)
    path = tmp_path / "old.safetensors"
    network = SmearNet(widths=(8, 16))
    del network.gate
    save_weights(path, network, info, {"widths": (8, 16)})
    with pytest.raises(WeightsError, match="another version of cbctool"):
        load_weights(path)


def test_other_classes_are_refused(lab: Path) -> None:
    import hashlib

    data = lab.read_bytes().replace(b"basophil", b"basophiI", 1)
    lab.write_bytes(data)
    lab.with_name(lab.name + ".sha256").write_text(hashlib.sha256(data).hexdigest())
    with pytest.raises(WeightsError, match="classes or their order"):
        weights_info(lab)


def test_every_shipped_file_is_registered_and_whole() -> None:
    registry = read_registry()
    shipped = {path.name for path in weights_folder().glob("*.safetensors")}
    assert shipped == set(registry["sha256"])
    for name in shipped:
        info = weights_info(weights_folder() / name)
        assert info.validated
        assert info.sha256 == registry["sha256"][name]
        assert len(info.confusion) == len(CLASSES)
    assert default_weights().name in shipped


def test_a_shipped_file_is_found_by_name() -> None:
    assert weights_info(Path("default")).name == "default"


def test_a_copy_of_a_shipped_file_stays_validated(tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(default_weights().read_bytes())
    assert weights_info(copy).validated


def test_what_a_file_says_is_read_without_torch() -> None:
    code = (
        "import sys; from cbctool.classifier.weights import weights_info; weights_info(); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_registry_is_json_with_a_default() -> None:
    registry = json.loads((weights_folder() / "registry.json").read_text())
    assert registry["default"] in registry["sha256"]
