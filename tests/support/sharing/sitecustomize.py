"""Start of each Python process that a test starts: what it traces is shared with the tests of the session.

Python imports a module of this name from ``PYTHONPATH``. Nothing of ours is imported before the exporter is, so that a
process which exports nothing is as it was. See :mod:`tests.support.shared_exports`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

EXPORTER = "training.export.onnx_export"
ROOT = Path(__file__).resolve().parents[3]


class _SharingLoader(Loader):
    """Loader of the exporter that puts the shared one in its place."""

    def __init__(self, usual: Loader) -> None:
        self._usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._usual.exec_module(module)
        sys.path.append(str(ROOT))
        export = module.__dict__["_export"]

        def share(*given: Any) -> bytes:
            # Imported when something is exported: in a session of tests, that module imports the exporter.
            from tests.support.shared_exports import GRAPHS, SharedExports

            return SharedExports(Path(os.environ[GRAPHS]), export)(*given)

        module.__dict__["_export"] = share


class _ExporterFinder(MetaPathFinder):
    """Finder of the exporter alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != EXPORTER:
            return None
        sys.meta_path.remove(self)  # the usual ones find it now
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _SharingLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _ExporterFinder())
