"""One scenario's side of an appliance, for failovers: real image files, no stream."""

from pathlib import Path

from rha.errors import StorageError
from rha.image.storage_daemon import ImageSpec
from rha.report import Point
from rha.scenario import Appliance, Disk, Scenario, Vm


class OneScenario:
    """Satisfies FailoverHost. `calls` in order; a verb in `broken` raises."""

    def __init__(self, store: Path, images: list[Path], vm: Vm, why: str | None = None) -> None:
        self.store, self.folder = store, images[0].parent
        self.images, self.why, self.calls = images, why, list[str]()
        self.broken: set[str] = set()
        self.earlier: list[Point] = []  # what can be tried, in this order
        self.scenario = Scenario(
            name=f"{self.folder.name}",
            disk=[Disk(name=path.stem, device=f"/dev/{path.stem}") for path in images],
            appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
            vm=vm,
        )

    def _called(self, verb: str) -> None:
        self.calls.append(verb)
        if verb in self.broken:
            raise StorageError(f"{verb} broke")

    def why_not_consistent(self) -> str | None:
        return self.why

    def cut_off(self) -> None:
        self._called("cut_off")

    def stop_receiving(self) -> None:
        self._called("stop_receiving")

    def apply_spool(self, limit_seconds: float) -> Point | None:
        self._called("apply_spool")
        return None if self.why else Point(lsn=4096, time=1000.0)

    def earlier_point(self, before: Point, seconds: float) -> Point | None:
        self._called("earlier_point")
        return self.earlier.pop(0) if self.earlier else None

    def close_images(self, at: Point | None = None) -> list[ImageSpec]:
        self._called("close_images")
        return [ImageSpec(path.stem, path, path.suffix[1:]) for path in self.images]
