"""What goes wrong, as a person should read it: what, why, and what to do about it."""

from __future__ import annotations

from enum import IntEnum

from rha.units import printable


class Exit(IntEnum):
    """Exit codes of every `rha` command. Documented in docs/errors.md."""

    OK = 0
    DIFFERENT = 1  # the command ran; its answer is "no": verify found differences, doctor a fault, a test boot failed
    USAGE = 2  # wrong words on the command line (click's own code)
    CONFIG = 3  # a scenario or configuration file is wrong
    HOST = 4  # this host cannot do it: not root, no BTF, lockdown, a program is missing
    DEVICE = 5  # the block device is missing, of the wrong kind, too small, read-only, taken
    NETWORK = 6  # address in use, peer not reachable, TLS, certificate
    STORAGE = 7  # journal, image or catalogue damaged, taken, or out of space
    VM = 8  # the substitute VM could not be made or did not answer
    STATE = 9  # refused in the present state; nothing was changed
    UNKNOWN = 10  # the outcome is not known: neither done nor failed


class RhaError(Exception):
    """A refusal or failure with its evidence and its remedy.

    `what` names the failure, `cause` the evidence, `hint` a next step (a command where there is one).
    """

    code: Exit = Exit.STATE

    def __init__(self, what: str, *, cause: str = "", hint: str = "", code: Exit | None = None) -> None:
        super().__init__(what)
        self.what, self.cause, self.hint = what, cause, hint
        if code is not None:
            self.code = code

    def lines(self) -> list[str]:
        """The three lines a person sees; empty parts are left out. They may hold what another host said."""
        parts = (("error", self.what), ("cause", self.cause), ("hint", self.hint))
        return [f"{name}: {printable(text)}" for name, text in parts if text]

    def __str__(self) -> str:
        return "\n".join(self.lines())


class ConfigError(RhaError):
    code = Exit.CONFIG


class HostError(RhaError):
    code = Exit.HOST


class DeviceError(RhaError):
    code = Exit.DEVICE


class NetworkError(RhaError):
    code = Exit.NETWORK


class StorageError(RhaError):
    code = Exit.STORAGE


class VmError(RhaError):
    code = Exit.VM


class StateError(RhaError):
    code = Exit.STATE
