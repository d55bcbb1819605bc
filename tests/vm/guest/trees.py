"""Sample guests: folders of files as a guest has them, and as they shall be afterwards."""

from pathlib import Path

from rha.vm.guest.tree import File, Wish

SAMPLES = Path(__file__).parents[2] / "samples/guests"
MAC = "52:54:00:aa:bb:cc"
CARD = Wish(mac=MAC, driver="virtio_net")
FULL = Wish(
    mac=MAC,
    driver="virtio_net",
    addresses=["198.51.100.10/24", "198.51.100.11/24", "2001:db8:1::10/64"],
    gateways=["198.51.100.1", "fe80::1"],
    dns=["198.51.100.53", "2001:db8:1::53"],
)


def files_below(folder: Path) -> dict[str, bytes]:
    return {f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tree_of(name: str) -> dict[str, File]:
    return {path: File(content) for path, content in files_below(SAMPLES / name / "before").items()}
