"""A handful of real fields for those who have a network: downloaded once, believed only by their hash."""

from __future__ import annotations

import logging
from pathlib import Path

from cbctool.errors import InputError, OutputError

logger = logging.getLogger(__name__)

BASE_URL = "https://raw.githubusercontent.com/Shenggan/BCCD_Dataset/master/BCCD/JPEGImages/"
"""BCCD (MIT licence): fields of 640 x 480 px, from another laboratory than the training data."""

REGISTRY: dict[str, str] = {
    "BloodImage_00001.jpg": "791ac5f11494bb9c0ce39080d25fc97731f7584a6df99fac2555a3d1613dfe9a",
    "BloodImage_00012.jpg": "af2e2f7f66b94cf7bb468e33c3fd61314bd194c7be833238ca6fa757e9a95fc2",
    "BloodImage_00009.jpg": "734527f21c96fd1a78e5a4bf6b0505c01e0c2e0eecd3a7f663369d3ad868257b",
    "BloodImage_00023.jpg": "5620163d509abfa32d23e18bb68c05a01674bbff26d66f8a1a1e2bcfb883fbee",
    "BloodImage_00020.jpg": "9a451f4c73509cb3f4412cb57a2065a6b85f2759b84be5d662a419c316f59504",
    "BloodImage_00047.jpg": "291474f1edb227500d623d2566ed878b97fa8dbb686b216ee2632a683319f1c5",
    "BloodImage_00040.jpg": "4aca6afce265c06dead7de07e3ca636629b15e4012343f6423495546f0170b37",
    "BloodImage_00083.jpg": "3f9a2d31443e99f33c437b3406318956be0dfac45210defdae8d82c657526595",
    "BloodImage_00008.jpg": "41c10341e68981da9a596348f50a359fb5d1af5909dfddd5b922d0b061bbe7fa",
}
"""SHA-256 of each field."""


def fetch_samples(
    folder: Path, base_url: str = BASE_URL, registry: dict[str, str] | None = None, timeout_s: float = 30.0
) -> list[Path]:
    """Download real sample fields; those that are already there and whole are kept.

    Parameters
    ----------
    folder : Path
        Where they go; made if it is not there.
    base_url : str
        Where they come from, with a slash at its end.
    registry : dict of str to str, optional
        File names and their SHA-256. [default: ``REGISTRY``]
    timeout_s : float
        Longest silence of the server, seconds.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        When there is no network, the server has no such file, or what came is not what was pinned.
    OutputError
        When the folder cannot be written to.
    """
    import pooch
    import requests

    registry = REGISTRY if registry is None else registry
    pooch.get_logger().setLevel("WARNING")
    fetcher = pooch.create(folder, base_url, registry=registry, retry_if_failed=1)
    downloader = pooch.HTTPDownloader(timeout=timeout_s)
    written = []
    for name in registry:
        try:
            written.append(Path(fetcher.fetch(name, downloader=downloader)))
        except requests.exceptions.RequestException as error:
            raise InputError(
                f"{base_url}{name} cannot be downloaded ({_reason(error)}).",
                "Check the network or the proxy; the drawn slides in samples/ need none.",
            ) from error
        except ValueError as error:  # pooch's word for a wrong hash
            raise InputError(
                f"{base_url}{name} is not the file that was pinned (SHA-256 {registry[name][:12]}... expected).",
                "Something on the way has changed it; try another network, and report it if it stays.",
            ) from error
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written to ({error.strerror or error}).", "Give another folder."
            ) from error
        logger.info("%s", written[-1])
    return written


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.exceptions.Timeout):
        return "the server did not answer in time"
    return "no connection"
