"""Where the runs of a study are executed: `launcher` (the interface), `local` (this machine), `on_ray` (a cluster)."""
