"""What the proof found, as build/proof.json and as a table."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from proof.oracle_a import Verdict
from proof.storms import Tally

PATH = Path(__file__).parents[1] / "build/proof.json"


@dataclass
class Result:
    """All of one run. `stacks`: device stack → "equal", or the reason why not; filled by the lab's machines."""

    seed: int
    verdicts: list[Verdict] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    stacks: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Every sentence that says what was wrong."""
        oracles, storms = [one.failures for one in self.verdicts], [one.failures for one in self.tallies]
        differ = [
            f"{name}: {found}" for name, found in self.stacks.items() if not found.startswith(("equal", "refused"))
        ]
        return [*(sentence for part in oracles + storms for sentence in part), *differ]

    def is_good(self) -> bool:
        """Nothing was wrong, lost or silent."""
        figures = self.figures()
        return not (self.failures or figures["lost_bytes"] or figures["silent_gaps"])

    def figures(self) -> dict[str, object]:
        """The numbers that are asked for, under their names in proof.json."""
        return {
            "cuts": sum(one.cuts for one in self.verdicts) + sum(one.cuts for one in self.tallies),
            "cut_failures": len(self.failures),
            "kills_engine": sum(one.kills_engine for one in self.tallies),
            "kills_appliance": sum(one.kills_appliance for one in self.tallies),
            "overflows": sum(one.overflows for one in self.tallies),
            "link_cuts": sum(one.link_cuts for one in self.tallies),
            "clock_steps": sum(one.clock_steps for one in self.tallies),
            "lost_bytes": sum(one.lost_bytes for one in self.verdicts) + sum(one.lost_bytes for one in self.tallies),
            "silent_gaps": sum(one.silent_gaps for one in self.tallies),
            "stacks": self.stacks,
        }

    def save(self, path: Path = PATH) -> None:
        """Replaces the file."""
        path.parent.mkdir(exist_ok=True)
        details = {
            "seed": self.seed,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "kernel": platform.release(),
            "seconds": round(self.seconds, 1),
            "failures": self.failures,
            "subjects": [asdict(one) for one in self.verdicts],
            "storms": [asdict(one) for one in self.tallies],
        }
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(self.figures() | details, indent=1) + "\n")
        draft.replace(path)

    def table(self) -> str:
        """For a person."""
        lines = [f"{'subject':<22}{'cuts':>7}{'writes':>9}{'failures':>10}{'seconds':>9}"]
        for one in self.verdicts:
            lines.append(f"{one.subject:<22}{one.cuts:>7}{one.writes:>9}{len(one.failures):>10}{one.seconds:>9.0f}")
        lines.append("")
        heads = ("storm", "engine", "appliance", "overflows", "links", "clock", "cuts", "lost", "silent", "failures")
        lines.append("".join(f"{head:>10}" for head in heads))
        for tally in self.tallies:
            row = (tally.name, tally.kills_engine, tally.kills_appliance, tally.overflows, tally.link_cuts)
            rest = (tally.clock_steps, tally.cuts, tally.lost_bytes, tally.silent_gaps, len(tally.failures))
            lines.append("".join(f"{value:>10}" for value in (*row, *rest)))
        lines += ["", *(f"{name:<22}{value}" for name, value in self.figures().items() if name != "stacks")]
        lines += [f"{name:<40}{value}" for name, value in sorted(self.stacks.items())]
        return "\n".join([*lines, *(f"FAILED {one}" for one in self.failures)])
