"""Write a bill of materials for each image, in CycloneDX JSON: ``python -m supply_chain.sbom FOLDER``.

It follows from the lock files: every Python package of an image with its version, the hashes of its wheels, its
licence, and what depends on it. Debian's packages are those of the base image; a scanner of images lists them.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from supply_chain.licences import licence_of
from supply_chain.lock_file import LOCKS, PROJECT, ROOT, Pin, lock_path, read_lock


def main(arguments: list[str]) -> int:
    """Write ``etegrec-<image>.cdx.json`` for each image into the folder, and say where."""
    folder = Path(*arguments)
    folder.mkdir(parents=True, exist_ok=True)
    for name in LOCKS:
        path = folder / f"{PROJECT}-{name}.cdx.json"
        path.write_text(JsonV1Dot6(bill_of_materials(name)).output_as_string(indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


def bill_of_materials(image: str) -> Bom:
    """Return what an image is made of, by its lock file."""
    pins = read_lock(lock_path(image))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    root = Component(
        name=f"{PROJECT}-{image}",
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=PROJECT,
        licenses=[LicenseExpression(project["license"])],
    )
    components = {pin.name: component(pin) for pin in pins}
    bom = Bom(components=components.values(), serial_number=uuid5(NAMESPACE_URL, lock_path(image).read_text("utf-8")))
    bom.metadata.component = root

    for name, owner in {PROJECT: root, **components}.items():
        bom.register_dependency(owner, [components[pin.name] for pin in pins if name in pin.needed_by])
    return bom


def component(pin: Pin) -> Component:
    """Return a package as a bill of materials describes it."""
    url = PackageURL("pypi", name=pin.name, version=pin.version)
    licence = licence_of(pin).expression
    is_own_kind = licence.startswith("LicenseRef-")  # no licence that SPDX lists
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(url),
        purl=url,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
        licenses=[DisjunctiveLicense(name=licence) if is_own_kind else LicenseExpression(licence)],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
