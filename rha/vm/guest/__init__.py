"""The guest of a substitute VM: what has to change inside its image before it boots, and how that is done.

Pure: tree.py (words), one file for each network system (netplan.py, ifupdown.py, keyfile.py, networkd.py), adapt.py
(all of it), drivers.py and initramfs.py (which bus boots). Effects: inside.py (libguestfs), child.py (the process that
holds it), outside.py (starts that process). kept.py: what was there before, for the way back.
"""
