"""Folder that is put on the path of processes that tests start; see :mod:`tests.support.sharing.sitecustomize`."""
