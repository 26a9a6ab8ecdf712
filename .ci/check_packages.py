"""Checks the packages in a folder as an index and a user would: `python .ci/check_packages.py dist`, in seconds.

The tools are in release-tools.txt beside this file. `--platforms 4` asks for so many wheels besides.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = "vaekit/_build.json"
NO_ADDRESS = "AuthorEmail"  # pyroma asks for one; the developers are reached through the repository


def commands(sdist: Path, wheels: list[Path]) -> Iterator[list[str]]:
    """What the tools are called with."""
    yield ["validate-pyproject", str(ROOT / "pyproject.toml")]
    yield ["twine", "check", "--strict", str(sdist), *map(str, wheels)]
    yield ["check-wheel-contents", *map(str, wheels)]
    yield ["pyroma", "--min", "10", "--skip-tests", NO_ADDRESS, str(sdist)]


def problems(sdists: list[Path], wheels: list[Path], platforms: int | None) -> Iterator[str]:
    """What is wrong with the files themselves: their number, names, and what lies in them."""
    if len(sdists) != 1:
        yield f"there has to be one sdist; there are {len(sdists)}"
    if platforms is not None and len(wheels) != platforms:
        yield f"there have to be {platforms} wheels, one for each platform; there are {sorted(wheel.name for wheel in wheels)}"
    versions = {re.sub(r"^vaekit-|\.tar\.gz$|-py3-none-.*", "", file.name) for file in [*sdists, *wheels]}
    if len(versions) > 1:
        yield f"they are of several versions: {sorted(versions)}"
    for wheel in wheels:
        yield from (f"{wheel.name}: {problem}" for problem in problems_of(wheel))


def problems_of(wheel: Path) -> Iterator[str]:
    """What is wrong with one wheel."""
    if not re.fullmatch(r"vaekit-[^-]+-py3-none-(?!any\.)\w+\.whl", wheel.name):
        yield "it is not py3-none for one platform: there is no compiled library in it"
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    library = "vaekit/_C_cpu" + (".dll" if "-win" in wheel.name else ".so")
    for needed in (library, RECORD, "vaekit/py.typed"):
        if needed not in names:
            yield f"{needed} is missing"
    if {library, RECORD} <= names:
        built, held = json.loads(archive.read(RECORD))["kernels"]["cpu"].get("bytes"), archive.getinfo(library).file_size
        if built != held:
            yield f"{library} has {held} bytes, but {built} were built: what changed it keeps vaekit from loading it"
    for licence in ("LICENSE", "NOTICE"):
        if not any(name.endswith(f".dist-info/licenses/{licence}") for name in names):
            yield f"{licence} is missing"
    if stray := sorted(name for name in names if not name.startswith(("vaekit/", "vaekit-"))):
        yield f"what does not belong there: {stray}"


def main(arguments: list[str]) -> int:
    """The exit code: 1 where anything is wrong, after all that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--platforms", type=int)
    given = parser.parse_args(arguments)
    sdists, wheels = sorted(given.folder.glob("*.tar.gz")), sorted(given.folder.glob("*.whl"))
    found = list(problems(sdists, wheels, given.platforms))
    print("\n".join(found) or f"{', '.join(file.name for file in [*sdists, *wheels])}: as they should be", flush=True)
    if not sdists or not wheels:
        return 1
    without_compiling = {**os.environ, "VAEKIT_NO_NATIVE": "1", "NO_COLOR": "1"}  # pyroma asks the sdist for its metadata
    without_compiling.pop("VAEKIT_REQUIRE_NATIVE", None)
    failed = [
        command[0]
        for command in commands(sdists[0], wheels)
        if subprocess.run(command, env=without_compiling, check=False).returncode
    ]
    if failed:
        print(f"not content: {', '.join(failed)}")
    return int(bool(found or failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
