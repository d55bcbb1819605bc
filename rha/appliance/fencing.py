"""How this appliance keeps masters from serving: what its configuration says, for rha.fence."""

from __future__ import annotations

from pathlib import Path

from rha.appliance.config import Config
from rha.fence.base import FencePlace
from rha.fence.etcd import Access
from rha.fence.taking import Means, appliance_name


def means_of(config: Config, scenario: str) -> Means:
    """For one scenario. Which etcd it is says the scenario; who we are to it, our configuration."""
    store = Path(config.store)
    access = Access((), config.etcd.ca, config.etcd.certificate, config.etcd.key)
    place = FencePlace(scenario, store / scenario / "fence", Path(config.scripts))
    return Means(place, appliance_name(store), access)
