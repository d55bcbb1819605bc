"""libguestfs on a real ext4 file system with traps in it: what is read, what is written, what comes back. One
launch."""

import os

import pytest

from rha.vm.guest import kernel
from rha.vm.guest.adapt import LINK, plan
from rha.vm.guest.inside import Guest
from rha.vm.guest.tree import Edit, Unknown, Wish
from tests.vm.guest.image import INTERFACES, look, make_guest

pytestmark = pytest.mark.root

WISH = Wish(
    mac="52:54:00:aa:bb:cc", driver="e1000e", addresses=["198.51.100.9/24"], dns=["198.51.100.53"], hostname="dr1"
)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    work = tmp_path_factory.mktemp("guest")
    return make_guest(work / "guest.raw", work)


@pytest.fixture(scope="module")
def guest(image, tmp_path_factory):
    """Mounted; one VM for all tests of this file. It is closed before the last of them reads the image itself."""
    import guestfs

    before = dict(os.environ)
    os.environ.update(kernel.environment(), LIBGUESTFS_BACKEND="direct", LIBGUESTFS_BACKEND_SETTINGS="force_tcg")
    handle = guestfs.GuestFS(python_return_dict=True)
    handle.add_drive_opts(str(image), format="raw")
    handle.launch()
    os.environ.clear()
    os.environ.update(before)
    found = Guest(handle)
    assert found.mount() == []
    yield found
    handle.close()


def test_the_system_is_recognised(guest):
    assert guest.system == "Debian GNU/Linux 12 (bookworm)"


def test_links_devices_pipes_and_huge_files_are_no_settings(guest):
    tree = guest.tree()
    assert tree["/etc/network/interfaces"].content == INTERFACES
    assert (tree["/etc/hostname"].uid, tree["/etc/hostname"].gid, tree["/etc/hostname"].mode) == (7, 8, 0o600)
    assert "/etc/resolv.conf" not in tree
    assert tree["/etc/network/interfaces.d/e;reboot;\n"].content == b"\xff\xfe"
    assert not any("netplan" in path for path in tree)
    assert not any(file.content == b"secret\n" for file in tree.values())


def test_the_bus_is_what_kernel_and_initramfs_drive(guest):
    assert guest.bus() == ("sata", "SATA: initrd.img-6.1.0-9 has ahci and sd_mod", True)


def test_nothing_is_written_through_a_link(guest):
    with pytest.raises(Unknown, match=r"/etc/resolv\.conf is no regular file"):
        guest.write([Edit("/etc/resolv.conf", b"nameserver 192.0.2.1\n")])
    assert guest.read("/etc/shadow").content == b"secret\n"


def test_all_of_it_is_put_back(guest, image, tmp_path):
    """Byte for byte, with owner, mode and time; what somebody has written meanwhile is handed out, not lost."""
    before = look(image, tmp_path / "before")
    kept = guest.write(plan(guest.tree(), WISH, b"mark\n").edits)
    assert [one.path for one in kept if one.before is None] == ["/etc/rha/substitute", LINK]
    assert guest.read("/etc/hostname").content == b"dr1\n"
    assert guest.read("/etc/hostname").mode == 0o600
    assert b"address 198.51.100.9\n" in guest.read("/etc/network/interfaces").content
    assert guest.read(LINK).content.endswith(b"Name=ens3\n")
    guest.write([Edit("/etc/hosts", b"an administrator was here\n")])
    changed = guest.restore(kept)
    assert [(one.path, one.before.content) for one in changed] == [("/etc/hosts", b"an administrator was here\n")]
    guest._handle.rm("/etc/hostname")
    assert guest.restore(kept) == []
    guest._handle.umount_all()
    guest._handle.shutdown()
    assert look(image, tmp_path / "after") == before
