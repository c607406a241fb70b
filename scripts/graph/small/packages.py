"""Fetch packages from PyPI, npm and Debian with their own clients, and encode images.

Unpacked packages are kept in a folder, so a second run downloads nothing.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mll_hf.graph.authoring import NewImage
from mll_hf.utils.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 128  # height and width of an image in pixels


@dataclass(frozen=True, slots=True)
class Packages:
    """A folder of unpacked packages.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def npm(self, spec: str) -> Path:
        """Folder of an npm package, given as ``name@version``."""

        def fetch(work: Path) -> None:
            run(["npm", "pack", "--silent", spec], work)
            _extract_tar(next(work.glob("*.tgz")), work)

        return _kept(self.folder / "npm" / spec.replace("/", "__"), fetch) / "package"

    def pypi(self, spec: str) -> Path:
        """Folder of a PyPI package, a wheel or an sdist, given as ``name==version``."""

        def fetch(work: Path) -> None:
            run(["pip", "download", "--quiet", "--no-deps", "--no-build-isolation", spec], work)
            archive = next(path for path in work.iterdir() if path.suffix in (".whl", ".gz"))
            if archive.suffix == ".whl":
                zipfile.ZipFile(archive).extractall(work)  # noqa: S202 - it refuses to leave the folder
            else:
                _extract_tar(archive, work)

        return _kept(self.folder / "pypi" / spec, fetch)

    def debian(self, name: str, files: str) -> tuple[Path, str]:
        """Folder with the files of a Debian package that match a pattern, and the package's version."""

        def fetch(work: Path) -> None:
            run(["apt-get", "download", name], work)
            archive = next(work.glob("*.deb"))
            command = f"dpkg-deb --fsys-tarfile {archive.name} | tar -x --wildcards '{files}'"
            run(["bash", "-o", "pipefail", "-c", command], work)
            (work / "VERSION").write_text(archive.name.split("_")[1].replace("%3a", ":"))
            archive.unlink()

        target = _kept(self.folder / "debian" / name, fetch)
        return target, (target / "VERSION").read_text()


def _kept(target: Path, fetch: Callable[[Path], None]) -> Path:
    """Fill a temporary folder and rename it to ``target``, unless ``target`` exists."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent))
        fetch(work)
        os.replace(work, target)
    return target


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder."""
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def svg_image(svg: str, size: int = SIZE) -> Image.Image:
    """Render an SVG on a transparent background, its longer side ``size`` pixels."""
    import resvg_py

    image = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=2 * size))).convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return image


def webp_image(image: Image.Image, name: str, domain: str, source: str) -> NewImage:
    """Encode an image as WebP to add it to a graph."""
    buffer = io.BytesIO()
    to_rgb(image).save(buffer, "WEBP", quality=90, method=4)
    return NewImage(buffer.getvalue(), name, domain, source)


def centered(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255), size: int = SIZE) -> Image.Image:
    """Center an image in a square."""
    canvas = Image.new("RGB", (size, size), background)
    image = image.convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
    return canvas


def from_array(values: np.ndarray) -> Image.Image:
    """An image from an array [H, W, 3] of values in 0 to 1."""
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
