"""The scenario file: what is protected, how, and to where. TOML on the master; the appliance is told its content.

Sizes and durations are written with units (`64KiB`, `5s`) and become bytes (int) and seconds (float) here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from rha.units import parse_bytes, parse_rate, parse_seconds


class Size(int):
    """Bytes; in a file a text with its unit."""


class Duration(float):
    """Seconds; in a file a text with its unit."""


class Rate(int):
    """Bytes per second, 0: unlimited; in a file a text with its unit."""


def decode_unit(kind: type, value: Any) -> Any:
    """msgspec's dec_hook: units to numbers. Plain numbers come from our own JSON, where they are already plain."""
    if kind is Size:
        return Size(value if isinstance(value, int) else parse_bytes(value))
    if kind is Rate:
        return Rate(value if isinstance(value, int) else parse_rate(value))
    if kind is Duration:
        return Duration(value if isinstance(value, int | float) else parse_seconds(value))
    raise NotImplementedError(kind)


def encode_unit(value: Any) -> Any:
    """msgspec's enc_hook, the other way round: numbers."""
    if isinstance(value, Size | Rate):
        return int(value)
    if isinstance(value, Duration):
        return float(value)
    raise NotImplementedError(type(value))


Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file. Unknown keys are refused: a misspelt key must not mean the default."""


class Disk(_Table, kw_only=True, frozen=True):
    """One watched block device, whole disk or partition."""

    name: Name
    device: str  # path, best one that survives a reboot: /dev/disk/by-id/…


class Appliance(_Table, kw_only=True, frozen=True):
    """Where the stream goes, and how the two ends know each other."""

    address: str  # host:port
    ca: str
    certificate: str
    key: str


class Capture(_Table, kw_only=True, frozen=True):
    """Memory that the probe may use."""

    ring: Size | None = None  # None: 1/16 of RAM, a power of two, at most 2 GiB


class Window(_Table, kw_only=True, frozen=True):
    """A part of the week with a limit of its own, in the master's local time. `end` before `begin`: over midnight, on
    the days on which it begins."""

    begin: str = msgspec.field(name="from")  # HH:MM
    end: str = msgspec.field(name="to")  # HH:MM, also 24:00
    days: str = "mon-sun"  # "mon-fri", "sat,sun", "mon"
    limit: Rate


class Link(_Table, kw_only=True, frozen=True):
    """When the appliance begins to doubt the master; how much of the line the stream may take, and in what form."""

    heartbeat: Duration = Duration(1)
    lost_after: Duration = Duration(5)
    limit: Rate = Rate(0)  # outside the windows
    schedule: list[Window] = []  # the first one that covers the moment counts
    compression: Literal["auto", "none", "lz4", "zstd"] = "auto"


class Spool(_Table, kw_only=True, frozen=True):
    """A file on the master that takes the stream when the link is down longer than the ring lasts."""

    path: str
    size: Size


class Sync(_Table, kw_only=True, frozen=True):
    """How an image is made equal to its disk (rha/engine/state.py, `method_for`), and how fast the disk may be read."""

    method: Literal["auto", "volume", "block", "full", "offline"] = "auto"
    read_limit: Rate = Rate(0)
    priority: Literal["normal", "idle"] = "normal"


class Check(_Table, kw_only=True, frozen=True):
    """One question put to the master (or to the substitute): does this service answer? rha/watch has one file a kind.

    `unit` is asked of systemd by the master's own engine, which tells it with each heartbeat; all others are asked by
    whoever watches.
    """

    kind: Literal["ping", "tcp", "http", "sql", "script", "unit"]
    address: str  # ping: host; tcp: host:port; http, sql: URL; script: file name; unit: name.service
    timeout: Duration = Duration(2)
    attempts: int = 3
    needed: int = 1  # of the attempts must be answered
    interval: Duration = Duration(1)  # between two attempts
    status: list[int] = []  # http: any of these is an answer; empty: 200
    contains: str = ""  # http: a text of the answer's body
    ca: str = ""  # https: who may have issued its certificate; empty: as the system trusts
    query: str = "SELECT 1"  # sql
    expect: str = ""  # sql: first value of the first row, as text; empty: any
    user: str = "nobody"  # script: who runs it


class Watch(_Table, kw_only=True, frozen=True):
    """How often is looked, and how much must be seen before the appliance acts by itself."""

    every: Duration = Duration(10)  # between two rounds of the checks while the master is heard
    rounds: int = 1  # that must all say the same, one after the other, before it fails over
    calm: Duration = Duration(600)  # after a failover has ended: until then a person decides


class Observer(_Table, kw_only=True, frozen=True):
    """Another host that says what it sees of the master (`rha observe`). It has one vote, as the appliance has."""

    name: Name
    address: str  # host:port
    timeout: Duration = Duration(3)  # beyond what the checks themselves may take


class Forward(_Table, kw_only=True, frozen=True):
    """Port of the appliance's host that leads into the substitute VM (user-mode network only)."""

    host: str = "127.0.0.1"
    host_port: int
    guest_port: int


class Network(_Table, kw_only=True, frozen=True):
    """The substitute VM's network card."""

    kind: Literal["none", "user", "bridge", "network"] = "none"
    source: str = ""  # bridge: its name; network: libvirt's name
    mac: str = ""  # empty: made of host and scenario (rha/vm/card.py)
    forward: list[Forward] = []


class Guest(_Table, kw_only=True, frozen=True):
    """What is changed inside the substitute's guest before it boots, in its overlay: what its network card needs, and
    what is said here. Empty: as on the master. Taken back at the switchback."""

    adapt: Literal["auto", "no"] = "auto"
    required: bool = False  # false: a guest that cannot be adapted boots as it is, with a warning
    interface: str = ""  # whose place the substitute's card takes; empty: the one with the default route
    addresses: list[str] = []  # each with its prefix length; in place of those of the same family
    gateways: list[str] = []  # at most one for each family
    dns: list[str] = []
    hostname: str = ""
    limit: Duration = Duration(180)


class Vm(_Table, kw_only=True, frozen=True):
    """The substitute VM. `auto` means: looked up on the disk or tried out."""

    memory: Size = Size(1 << 30)
    cpus: int = 1
    firmware: Literal["auto", "bios", "uefi"] = "auto"
    bus: Literal["auto", "virtio", "sata", "ide"] = "auto"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    network: Network = Network()
    guest: Guest = Guest()
    ready: Check | None = None  # answers when the service is back
    ready_timeout: Duration = Duration(300)
    candidates: int = 0  # earlier points that a failover may try when the newest one does not come to `ready`


class Switch(_Table, kw_only=True, frozen=True):
    """What the master does when it hands its service over (rha/engine/release.py)."""

    units: list[str] = []  # systemd units, stopped in this order; started again in the opposite one
    limit: Duration = Duration(90)  # for each of them to stop, and to start
    after: Literal["stay", "poweroff"] = "stay"  # before the substitute starts


class BootCheck(_Table, kw_only=True, frozen=True):
    """One question put to the guest of a test boot (rha/switch/bootcheck.py): again and again until it is answered."""

    kind: Literal["tcp", "http", "sql", "script", "unit", "console", "agent"]
    address: str = ""  # as in [[check]], its port is the guest's; console: a regular expression; agent: nothing
    within: Duration = Duration(60)  # from the moment it is asked first
    timeout: Duration = Duration(5)  # of each attempt
    status: list[int] = []
    contains: str = ""
    ca: str = ""
    query: str = "SELECT 1"
    expect: str = ""
    user: str = "nobody"


class BootTest(_Table, kw_only=True, frozen=True):
    """The non-disruptive test: a point boots on an isolated network, is asked, and is thrown away. Times of day are the
    appliance's: it is the appliance's memory and processors that a test takes."""

    days: str = ""  # "sun", "mon-fri"; empty: only when a person asks for it
    begin: str = msgspec.field(name="from", default="02:00")
    end: str = msgspec.field(name="to", default="05:00")  # later it does not begin; before "from": over midnight
    point: str = "now"  # as --at of the verbs: the newest, so long ago, a bookmark
    address: str = ""  # of the guest, with its prefix length, where it has a fixed one; empty: it asks by DHCP
    memory: Size | None = None  # None: as vm.memory
    cpus: int | None = None
    limit: Duration = Duration(1800)  # for all of it; also how long --keep keeps it
    keep: int = 10  # reports, the oldest go
    ports: list[int] = []  # of the guest, that scripts want to reach besides those of the checks
    check: list[BootCheck] = []


class QuiescePostgresql(_Table, kw_only=True, frozen=True, tag_field="kind", tag="postgresql"):
    """A PostgreSQL server of the master that writes a checkpoint."""

    address: str  # postgresql://ROLE@/postgres?host=/run/postgresql
    user: str = "postgres"  # of the system: who connects
    limit: Duration = Duration(60)


class QuiesceMariadb(_Table, kw_only=True, frozen=True, tag_field="kind", tag="mariadb"):
    """A MariaDB or MySQL server of the master whose tables are closed and locked."""

    address: str  # mysql://root@localhost/?unix_socket=/run/mysqld/mysqld.sock
    user: str = "root"
    limit: Duration = Duration(10)  # nobody can write for that long, at worst


class QuiesceScript(_Table, kw_only=True, frozen=True, tag_field="kind", tag="script"):
    """A program of the master's administrator that brings an application to a clean state, and lets it go."""

    run: str  # its name in the scripts' folder
    user: str = "nobody"
    limit: Duration = Duration(60)


QuiesceApp = QuiescePostgresql | QuiesceMariadb | QuiesceScript


class Quiesce(_Table, kw_only=True, frozen=True):
    """What `rha bookmark --quiesce` may do on the master. Without this table: nothing."""

    limit: Duration = Duration(10)  # by then the file systems are thawed, whatever happens
    leave: list[str] = []  # mount points of file systems that are only synced, not frozen
    app: list[QuiesceApp] = []


class MoveIp(_Table, kw_only=True, frozen=True, tag_field="type", tag="ip"):
    """Addresses of the master that move to a network card of the appliance, on the same segment."""

    addresses: list[str]  # each with its prefix length: 192.0.2.10/24
    interface: str  # of the appliance
    limit: Duration = Duration(15)  # of each act, as in every redirection


class TakeName(_Table, kw_only=True, frozen=True, tag_field="type", tag="hostname"):
    """The substitute side takes the master's computer name; the master becomes NAME-RHA."""

    name: str
    restart: list[str] = []  # systemd units that read the name only when they start
    limit: Duration = Duration(30)


class RewriteDns(_Table, kw_only=True, frozen=True, tag_field="type", tag="dns"):
    """A name's A and AAAA records, or its CNAME, by RFC 2136."""

    servers: list[str]  # each is updated: host or host:port
    secondaries: list[str] = []  # only asked, until they show it too
    zone: str
    name: str  # absolute, or below the zone
    master: list[str]  # what the name leads to now: addresses, or one host name (CNAME)
    replica: list[str]
    ttl: Duration = Duration(60)
    key: str = ""  # file as tsig-keygen writes it; empty: unsigned
    limit: Duration = Duration(15)


class TakeAlias(_Table, kw_only=True, frozen=True, tag_field="type", tag="alias"):
    """NetBIOS names that Samba on the appliance answers for, beside its own."""

    names: list[str]
    limit: Duration = Duration(60)


class RunScript(_Table, kw_only=True, frozen=True, tag_field="type", tag="script"):
    """A program of the administrator, by its name in the scripts' folder of the side that runs it."""

    run: str
    at: Literal["before", "after"] = "after"  # all other redirections
    side: Literal["replica", "master", "both"] = "replica"
    user: str = "nobody"
    dry_run: bool = False  # also run by --dry-run and check, with RHA_DRY_RUN=1
    limit: Duration = Duration(60)


class FenceScript(_Table, kw_only=True, frozen=True, tag_field="kind", tag="script"):
    """A program of the appliance's administrator that cuts the master off. Exit code 0: it is off, certainly."""

    run: str  # its name in the scripts' folder
    user: str = "root"
    limit: Duration = Duration(30)  # of each act, as in every fence


class FenceLibvirt(_Table, kw_only=True, frozen=True, tag_field="kind", tag="libvirt"):
    """The master is a virtual machine: its hypervisor is told to destroy it."""

    uri: str  # qemu+ssh://root@host/system
    domain: str
    limit: Duration = Duration(30)


class FenceIpmi(_Table, kw_only=True, frozen=True, tag_field="kind", tag="ipmi"):
    """The master's management controller is told to switch its power off."""

    address: str  # host or host:port
    user: str
    password: str  # a file on the appliance that holds it, unreadable for others
    interface: Literal["lanplus", "lan"] = "lanplus"
    cipher: int | None = None  # lanplus: cipher suite; None: as ipmitool chooses; old controllers know only 3
    limit: Duration = Duration(60)


class Lease(_Table, kw_only=True, frozen=True):
    """Who holds it in etcd may serve. The master's engine stops what is named here before another can take it."""

    endpoints: list[str]  # of one etcd cluster: https://host:2379
    addresses: list[str] = []  # each with its prefix length: 192.0.2.10/24
    interface: str = ""  # of the master; valid iff there are addresses
    units: list[str] = []  # of systemd, started in this order, stopped in the other
    ttl: Duration = Duration(15)  # without a word from the engine for so long, the lease ends
    stop_limit: Duration = Duration(4)  # a unit that has not stopped by then is killed
    last_resort: Literal["alarm", "reboot"] = "alarm"  # when something serves still after that
    ca: str = ""  # of the master; the appliance has its own in its configuration
    certificate: str = ""
    key: str = ""


Fence = FenceScript | FenceLibvirt | FenceIpmi
Redirect = MoveIp | TakeName | RewriteDns | TakeAlias | RunScript
Kind = Literal["file-server", "sql", "mail", "web", "oracle", "vm-manager", "hypervisor", "full-system"]


class Scenario(_Table, kw_only=True, frozen=True):
    """The whole file."""

    name: Name
    kind: Kind = "full-system"  # decides which redirections are allowed
    mode: Literal["dr", "ha"] = "dr"  # dr: a person switches; ha: the appliance does
    disk: list[Disk]
    appliance: Appliance
    capture: Capture = Capture()
    link: Link = Link()
    spool: Spool | None = None
    sync: Sync = Sync()
    check: list[Check] = []
    watch: Watch = Watch()
    observer: list[Observer] = []
    fence: list[Fence] = []  # one is enough, in this order
    lease: Lease | None = None
    vm: Vm = Vm()
    switch: Switch = Switch()
    test: BootTest = BootTest()
    quiesce: Quiesce | None = None
    redirect: list[Redirect] = []


def from_plain(data: object) -> Scenario:
    """A scenario from its plain form (TOML's or JSON's dict).

    Raises msgspec.ValidationError at the first mistake; `rha.scenario_check` finds all of them.
    """
    return msgspec.convert(data, Scenario, dec_hook=decode_unit)


def to_plain(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain dicts and numbers, for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(scenario, enc_hook=encode_unit)
    return plain
