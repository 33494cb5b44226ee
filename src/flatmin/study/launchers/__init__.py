"""Where the runs of a study are executed: `launcher` (the interface), `local` (processes of this machine)."""
