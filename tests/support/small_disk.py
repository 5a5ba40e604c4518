"""Small disk that tests can fill up: a tmpfs, mounted for this process, or in a namespace that needs no rights."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLDER = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && cat'


class SmallDisk:
    """File system of a given size.

    Attributes:
        path: Its folder. Seen through another process, unless the tests run as root.
        is_mounted_here: False if it is seen through another process: locks resolve such a path, and miss the disk.
    """

    def __init__(self, path: Path, *, is_mounted_here: bool) -> None:
        self.path = path
        self.is_mounted_here = is_mounted_here

    @property
    def free(self) -> int:
        """Bytes that are free."""
        return shutil.disk_usage(self.path).free

    def fill(self, leave: int = 0) -> None:
        """Take the free space by a file, as another program would, but ``leave`` bytes."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            while (size := min(self.free - leave, 1 << 16)) > 0:
                file.write(bytes(size))

    def clear(self) -> None:
        """Give the space back that :meth:`fill` took."""
        (self.path / "filler").unlink()

    def remount(self, option: str) -> None:
        """Mount it again, ``ro`` or ``rw``."""
        assert self.is_mounted_here
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True)


@contextmanager
def small_disk(mount_point: Path, size: int) -> Iterator[SmallDisk | None]:
    """Mount a disk on an existing folder; ``None`` where the machine does not allow it."""
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(mount_point)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode == 0:
        try:
            yield SmallDisk(mount_point, is_mounted_here=True)
        finally:
            subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
        return

    holding = ["unshare", "--mount", "--map-root-user", "sh", "-c", _HOLDER, "sh", str(size), str(mount_point)]
    holder = subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        is_mounted = holder.stdout.readline() == "mounted\n"
        path = Path(f"/proc/{holder.pid}/root{mount_point}")
        yield SmallDisk(path, is_mounted_here=False) if is_mounted else None
    finally:
        holder.kill()
        holder.communicate()
