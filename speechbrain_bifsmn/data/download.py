"""Fetching the Speech Commands archives, only when asked to.

Speech Commands is by Pete Warden, Google, under CC BY 4.0:
https://arxiv.org/abs/1804.03209
"""

import hashlib
import os
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path

import torch

from speechbrain_bifsmn.data.audio import DataError

URL = "https://storage.googleapis.com/download.tensorflow.org/data"

# SHA-256 of each archive, as torchaudio, tensorflow_datasets and Hugging
# Face's SUPERB publish them.
ARCHIVES = {
    "speech_commands_v0.01": (
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"
    ),
    "speech_commands_v0.02": (
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
    ),
    "speech_commands_test_set_v0.01": (
        "baa084f6b62c91de660ff0588ae4dfc4e4d534aa99ac0e5f406cba75836cbd00"
    ),
    "speech_commands_test_set_v0.02": (
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df"
    ),
}


def download(name, folder):
    """Fetch an archive, check it and unpack it.

    An archive that already lies in the folder, put there by hand for example,
    is checked, used and kept. Nothing incomplete ever bears the final name.

    Arguments
    ---------
    name : str
        A key of ``ARCHIVES``.
    folder : str or Path
        Where the folder of that name is to be.

    Returns
    -------
    Path
        The unpacked folder.

    Raises
    ------
    DataError
        If it cannot be fetched, or is not the archive that was published.
    """
    target = Path(folder) / name
    if target.is_dir():
        return target
    Path(folder).mkdir(parents=True, exist_ok=True)
    archive = Path(folder) / f"{name}.tar.gz"
    url = f"{URL}/{archive.name}"
    by_hand = archive.is_file()
    if by_hand:
        if _sha256(archive) != ARCHIVES[name]:
            raise DataError(
                f"{archive}: not the published archive (its SHA-256 differs): "
                f"delete it to have it fetched again"
            )
    else:
        try:
            torch.hub.download_url_to_file(url, archive, ARCHIVES[name])
        except (OSError, HTTPException) as error:
            raise DataError(
                f"{url}: not reachable ({error}); fetch it elsewhere and put "
                f"it into {folder}"
            ) from None
        except RuntimeError:
            raise DataError(
                f"{url}: what came is not the published archive (its SHA-256 "
                f"differs); try again"
            ) from None
    unpack(archive, target)
    if not by_hand:
        archive.unlink()
    return target


def unpack(archive, target):
    """Unpack a tar file beside its final place, then move it there.

    Arguments
    ---------
    archive : str or Path
        A tar file.
    target : str or Path
        The folder to become; it must not exist.

    Raises
    ------
    DataError
        If the archive is damaged or would write outside of the folder.
    """
    target = Path(target)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}."
    ) as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(f"{temporary}/data", filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{archive}: cannot unpack it ({error})") from None
        os.replace(f"{temporary}/data", target)


def _sha256(path):
    """Digest of a file that need not fit into memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
