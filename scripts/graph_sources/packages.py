"""Packages as folders of files, and pictures as bytes.

Packages come from PyPI, npm and Debian through their own clients and are kept in a folder, so that a second run
downloads nothing.
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

import numpy as np
from PIL import Image

from mll_hf.graph.authoring import NewImage
from mll_hf.utils.images import to_rgb

SIZE = 128  # pixels of a picture's side


@dataclass(frozen=True, slots=True)
class Packages:
    """A folder of unpacked packages.

    Attributes:
        folder: Where they are kept.
    """

    folder: Path

    def npm(self, spec: str) -> Path:
        """An npm package, ``name@version``; returns its folder."""
        target = self.folder / "npm" / spec.replace("/", "__")
        with _unpacked(target) as work:
            if work:
                run(["npm", "pack", "--silent", spec], work)
                _extract_tar(next(work.glob("*.tgz")), work)
        return target / "package"

    def pypi(self, spec: str) -> Path:
        """A PyPI package, ``name==version``, that ships a wheel or an sdist; returns its folder."""
        target = self.folder / "pypi" / spec
        with _unpacked(target) as work:
            if work:
                run(["pip", "download", "--quiet", "--no-deps", "--no-build-isolation", spec], work)
                archive = next(path for path in work.iterdir() if path.suffix in (".whl", ".gz"))
                if archive.suffix == ".whl":
                    zipfile.ZipFile(archive).extractall(work)  # noqa: S202 - it refuses to leave the folder
                else:
                    _extract_tar(archive, work)
        return target

    def debian(self, name: str, files: str) -> tuple[Path, str]:
        """The files of a Debian package that fit a pattern; returns their folder and the package's version."""
        target = self.folder / "debian" / name
        with _unpacked(target) as work:
            if work:
                run(["apt-get", "download", name], work)
                archive = next(work.glob("*.deb"))
                command = f"dpkg-deb --fsys-tarfile {archive.name} | tar -x --wildcards '{files}'"
                run(["bash", "-o", "pipefail", "-c", command], work)
                (work / "VERSION").write_text(archive.name.split("_")[1].replace("%3a", ":"))
                archive.unlink()
        return target, (target / "VERSION").read_text()


class _unpacked:  # noqa: N801 - a context manager
    """A temporary folder that becomes ``target`` when all went well; None if ``target`` is there already."""

    def __init__(self, target: Path) -> None:
        self._target, self._work = target, None

    def __enter__(self) -> Path | None:
        if self._target.exists():
            return None
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._work = Path(tempfile.mkdtemp(dir=self._target.parent))
        return self._work

    def __exit__(self, kind: object, *_: object) -> None:
        if self._work and kind is None:
            os.replace(self._work, self._target)


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder."""
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def svg_image(svg: str, size: int = SIZE) -> Image.Image:
    """Draw an SVG, its longer side ``size`` pixels; transparent where nothing is drawn."""
    import resvg_py

    image = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=2 * size))).convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return image


def webp_image(image: Image.Image, name: str, domain: str, source: str) -> NewImage:
    """An image to add to a graph, encoded as WebP."""
    buffer = io.BytesIO()
    to_rgb(image).save(buffer, "WEBP", quality=90, method=4)
    return NewImage(buffer.getvalue(), name, domain, source)


def centered(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255), size: int = SIZE) -> Image.Image:
    """A picture in the middle of a square."""
    canvas = Image.new("RGB", (size, size), background)
    image = image.convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
    return canvas


def from_array(values: np.ndarray) -> Image.Image:
    """A picture from an array [H, W, 3] of numbers from 0 to 1."""
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
