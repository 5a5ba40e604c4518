"""Search engines: one contract, implemented on ONNX Runtime, on torch, and as a fake for tests."""
