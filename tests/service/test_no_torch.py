from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys
import service.app, service.cli, service.engines.fake, service.engines.onnx, service.live.embedded, service.live.redis
heavy = {name.partition('.')[0] for name in sys.modules} & {'torch', 'training', 'polars', 'onnx'}
assert not heavy, heavy
assert 'model_store.network' not in sys.modules
assert 'model_store.publish' not in sys.modules
"""


def test_a_cpu_service_never_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
