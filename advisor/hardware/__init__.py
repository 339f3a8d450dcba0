"""Hardware: probe this machine, load profiles of others. Heavy libraries are imported by the probing process only."""

from advisor.hardware.probe import probe_device
from advisor.hardware.profiles import load_profile, profile_names, save_profile, this_device

__all__ = ["load_profile", "probe_device", "profile_names", "save_profile", "this_device"]
