"""The shared kernel: what training and service both agree on. Code only; bundles live in ``ETEGREC_STORE``."""
