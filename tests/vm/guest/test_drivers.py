"""Which bus a guest's disk goes on."""

import pytest

from rha.vm.guest.drivers import Kernel, choose, newest_kernel

VIRTIO = "virtio: initrd.img-6.1-9 has virtio_blk and virtio_pci"
KERNEL = Kernel("6.1-9", "initrd.img-6.1-9")


@pytest.mark.parametrize(
    ("built_in", "inside", "bus", "why"),
    [
        (set(), {"virtio_blk", "virtio_pci", "ahci"}, "virtio", VIRTIO),
        ({"virtio_pci", "virtio_blk"}, set(), "virtio", "virtio: kernel 6.1-9 has virtio_blk and virtio_pci built in"),
        ({"virtio_pci"}, {"virtio_blk"}, "virtio", VIRTIO),
        ({"virtio_pci", "sd_mod"}, {"ahci"}, "sata", "SATA: initrd.img-6.1-9 has ahci and sd_mod"),
        ({"ata_piix", "sd_mod"}, set(), "ide", "IDE: kernel 6.1-9 has ata_piix and sd_mod built in"),
    ],
)  # fmt: skip
def test_the_first_that_it_can_drive(built_in, inside, bus, why):
    assert choose(KERNEL, built_in, inside) == (bus, why, True)


def test_one_that_drives_nothing_is_a_guess_and_says_so():
    assert choose(KERNEL, {"virtio_pci"}, {"nvme"}) == (
        "sata",
        "SATA: a guess, as initrd.img-6.1-9 drives neither virtio nor SATA nor IDE",
        False,
    )
    assert "kernel 5, which has no initramfs, drives" in choose(Kernel("5", ""), set(), set()).why


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["vmlinuz-6.1.0-9", "vmlinuz-6.1.0-10", "initrd.img-6.1.0-10"], ("6.1.0-10", "initrd.img-6.1.0-10")),
        (
            ["vmlinuz-0-rescue-8f2e", "vmlinuz-5.14.0-3.el9.x86_64", "initramfs-5.14.0-3.el9.x86_64.img"],
            ("5.14.0-3.el9.x86_64", "initramfs-5.14.0-3.el9.x86_64.img"),
        ),
        (["vmlinuz-6.4.0-1-default", "initrd-6.4.0-1-default"], ("6.4.0-1-default", "initrd-6.4.0-1-default")),
        (["vmlinuz-lts", "initramfs-lts"], ("lts", "initramfs-lts")),
        (["vmlinuz-linux", "initramfs-linux.img"], ("linux", "initramfs-linux.img")),
        (["vmlinuz-6.9.1", "vmlinuz-6.10.0.old"], ("6.9.1", "")),
        (["grub", "config-6.1"], None),
    ],
)
def test_the_kernel_that_boots(names, expected):
    assert newest_kernel(names) == expected
