"""A small guest on a real ext4 file system, made and read without mounting it: mkfs.ext4 -d, debugfs."""

import os
import stat
import subprocess
from pathlib import Path

from tests.vm.guest.test_initramfs import packed

INTERFACES = "# caf\xe9\nauto ens3\niface ens3 inet static\n\taddress 192.0.2.10/24\n\tgateway 192.0.2.1\n".encode(
    "latin-1"
)
KEYFILE = "etc/NetworkManager/system-connections/vpn.nmconnection"


def make_guest(image: Path, work: Path) -> Path:
    """Debian by its files: ifupdown, a kernel whose initramfs drives AHCI and no virtio, and traps for who follows
    links or trusts names."""
    root = work / "root"
    files = {
        "etc/network/interfaces": INTERFACES,
        "etc/hostname": b"web1\n",
        "etc/hosts": b"127.0.0.1 localhost\n127.0.1.1 web1\n",
        "etc/shadow": b"secret\n",
        "usr/lib/os-release": b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        KEYFILE: b"[connection]\ntype=vpn\n",
        "boot/vmlinuz-6.1.0-9": b"",
        "usr/lib/modules/6.1.0-9/modules.builtin": b"kernel/scsi/sd_mod.ko\nkernel/virtio/virtio_pci.ko\n",
        "boot/initrd.img-6.1.0-9": packed(work / "cpio", {"lib/modules/6.1.0-9/kernel/drivers/ata/ahci.ko": 9}),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "etc/hostname").chmod(0o600)
    os.chown(root / "etc/hostname", 7, 8)
    os.utime(root / "etc/hostname", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/resolv.conf").symlink_to("/etc/shadow")
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    traps = root / "etc/netplan"
    traps.mkdir()
    (traps / "a.yaml").symlink_to("/etc/shadow")
    os.mkfifo(traps / "b.yaml")
    os.mknod(traps / "c.yaml", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    with (traps / "d.yaml").open("wb") as huge:
        huge.truncate(40 << 20)
    (root / "etc/network/interfaces.d").mkdir()
    (root / "etc/network/interfaces.d/e;reboot;\n").write_bytes(b"\xff\xfe")
    for folder in ("", "boot", "etc/network/interfaces.d"):
        with open(os.fsencode(root / folder) + b"/caf\xe9", "wb"):
            pass
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(image)], check=True)
    return image


def look(image: Path, work: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Every regular file and link below /etc: mode, uid, gid, mtime in nanoseconds, content; as debugfs sees it."""
    work.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump /etc {work}", str(image)], check=True, capture_output=True)
    return {str(path.relative_to(work / "etc")): _described(path) for path in sorted(work.rglob("etc/**/*"))}


def _described(path: Path) -> tuple[int, int, int, int, bytes]:
    status = path.lstat()
    modified, content = 0, b""  # debugfs gives links and folders a time of its own
    if path.is_symlink():
        content = os.fsencode(path.readlink())
    elif path.is_file():
        modified, content = status.st_mtime_ns, path.read_bytes() if status.st_size < 1 << 20 else b"huge"
    return status.st_mode, status.st_uid, status.st_gid, modified, content
