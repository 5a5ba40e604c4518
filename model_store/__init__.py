"""The shared kernel: the code that training and service both use. Bundles are stored in ``ETEGREC_STORE``."""
