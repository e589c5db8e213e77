"""Download files of a remote address, by LitData where it knows the protocol, else by fsspec."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from scalablevit.data.stream.index import ShardsError

LITDATA_PROTOCOLS = ("s3://", "gs://", "azure://", "hf://", "r2://", "local:")
_ATTEMPTS = 3
_REFUSED = ("(403)", "(401)", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_ABSENT = ("(404)", "NoSuchKey", "NoSuchBucket")
_REFUSING = ("Forbidden", "Unauthorized", "Authentication", "PermissionDenied")
_PACKAGES = {"s3fs": "s3fs", "gcsfs": "gcsfs", "aiohttp": "aiohttp", "google": "google-cloud-storage"}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run on a machine with a role",
    "r2": "set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, or give them as data.stream.storage_options",
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "azure": "give account_url and credential as data.stream.storage_options",
    "hf": "run `hf auth login`, or set HF_TOKEN",
}

_DOWNLOADERS: dict[tuple[int, str, str], Any] = {}


class DownloadError(OSError):
    """A file of a remote address cannot be downloaded; the message names address and remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


def litdata_package() -> Any:
    """Import LitData.

    Raises:
        ShardsError: it is not installed.
    """
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    try:
        import litdata
    except ImportError as error:
        raise ShardsError(
            f"shards need LitData, which is not installed ({error}); run: pip install 'scalablevit[stream]'"
        ) from None
    return litdata


def download(address: str, name: str, to: Path, *, storage_options: dict[str, Any] | None = None) -> None:
    """Download a file of an address; what is at `to` is complete or not there.

    Args:
        address: of the folder.
        name: of the file in it, with "/" between folders.
        to: where it shall stand; its folder is there.
        storage_options: see `StreamSettings`.

    Raises:
        DownloadError: the server refuses, does not answer in three attempts, or has no such file; or the disk does.
        ShardsError: a package is missing.
    """
    remote = f"{address.rstrip('/')}/{name}"
    get = _by_litdata if address.startswith(LITDATA_PROTOCOLS) else _by_fsspec
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            get(address, remote, to, storage_options or {})
        except (ShardsError, KeyboardInterrupt):
            raise
        except Exception as error:
            why, is_final = _explain(error, address, remote)
            if is_final or attempt == _ATTEMPTS:
                raise DownloadError(getattr(error, "errno", None), why) from error
            time.sleep(attempt)
        else:
            if to.exists():
                return
            raise DownloadError(None, f"{remote}: there is no such file; check the address given as data.root")


def check_credentials(address: str, storage_options: dict[str, Any] | None) -> None:
    """Refuse at once an address whose credentials are missing, where asking the server would take long.

    Raises:
        DownloadError: there are none.
    """
    if not address.startswith("s3://") or storage_options:
        return
    litdata_package()
    try:
        import boto3
    except ImportError:
        raise ShardsError(f"{address} needs boto3; run: pip install 'scalablevit[stream]'") from None
    if boto3.Session().get_credentials() is None:
        raise DownloadError(None, _no_credentials(address))


def _by_litdata(address: str, remote: str, to: Path, options: dict[str, Any]) -> None:
    key = os.getpid(), address, repr(options)  # a client takes its time to make, and is not for forked processes
    if key not in _DOWNLOADERS:
        _DOWNLOADERS[key] = _downloader(address, options)
    downloader = _DOWNLOADERS[key]
    if address.startswith(("hf://", "local:")):
        downloader.download_file(remote, str(to))
        to.with_name(f"{to.name}.lock").unlink(missing_ok=True)  # LitData leaves it behind
        return
    # For S3, LitData's `download_file` takes obstore, whose threads do not survive a fork.
    with _written(to) as target:
        downloader.download_fileobj(remote, target)


def _downloader(address: str, options: dict[str, Any]) -> Any:
    litdata_package()
    from litdata.streaming.downloader import get_downloader

    if address.startswith(("s3://", "r2://")):
        options = {"config": _s3_config(), **options}
    return get_downloader(address, "", [], options, {})


def _s3_config() -> Any:
    """Give up on a server that does not answer; LitData would try a thousand times."""
    from botocore.config import Config

    return Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"})


def _by_fsspec(address: str, remote: str, to: Path, options: dict[str, Any]) -> None:
    import fsspec

    with fsspec.open(remote, "rb", **options) as source, _written(to) as target:
        shutil.copyfileobj(source, target, 2**20)


@contextlib.contextmanager
def _written(to: Path) -> Iterator[BinaryIO]:
    """A file that is renamed to its place once it is complete."""
    part = to.with_name(f"{to.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, to)
    finally:
        part.unlink(missing_ok=True)


def _explain(error: Exception, address: str, remote: str) -> tuple[str, bool]:
    """What went wrong, for people, and whether another attempt is useless."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = str(error)
    if isinstance(error, ModuleNotFoundError | ImportError):
        package = _PACKAGES.get((getattr(error, "name", "") or "").partition(".")[0], "")
        remedy = f"; run: pip install {package}" if package else ""
        return f"{remote}: a package for this address is missing ({text.strip()}){remedy}", True
    if any("Credential" in kind or kind in ("RefreshError", "GatedRepoError") for kind in kinds):
        return _no_credentials(address), True
    if _has(text, _REFUSED) or any(_has(kind, _REFUSING) for kind in kinds):
        return f"{remote}: access is refused ({text}); {_how_to_authenticate(address)}", True
    if any("NotFound" in kind for kind in kinds) or _has(text, _ABSENT):
        return f"{remote}: there is no such file; check the address given as data.root", True
    if isinstance(error, ValueError | TypeError):
        return f"{remote}: this address cannot be read ({text}); check it, and data.stream.storage_options", True
    return f"{remote}: it could not be downloaded ({type(error).__name__}: {text}); check the network", False


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _no_credentials(address: str) -> str:
    return f"{address}: no credentials were found for this address; {_how_to_authenticate(address)}"


def _how_to_authenticate(address: str) -> str:
    protocol = address.partition(":")[0]
    return _CREDENTIALS.get(protocol, "give what the server wants as data.stream.storage_options")


Fetch = Callable[[str, Path], None]
"""Downloads the file of a name to a path."""
