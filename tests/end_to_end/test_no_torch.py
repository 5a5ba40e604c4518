from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys
import service.app, service.cli, service.ingest.cli, service.engines.fake_engine, service.engines.onnx_engine
import service.store.embedded_store, service.store.redis_store
heavy = {name.partition('.')[0] for name in sys.modules} & {'torch', 'training', 'polars', 'onnx', 'confluent_kafka'}
assert not heavy, heavy
assert 'model_store.network' not in sys.modules
assert 'model_store.tracing.open_telemetry' not in sys.modules
assert 'opentelemetry.exporter' not in sys.modules
assert 'model_store.bundle.publish' not in sys.modules
"""


def test_a_cpu_service_never_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
