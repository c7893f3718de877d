"""What runs in the background: leader election, the reaper, probes, the orphan scan, retention."""
