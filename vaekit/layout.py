"""The names in a run's folder: what `fit` and `vaekit train` write, and what the other commands look for."""

RUN_FILE = "run.json"  # everything that the run is made from
ENVIRONMENT_FILE = "environment.json"  # where it ran: versions, commit, command, host, device
HISTORY_FILE = "history.csv"
BEST, LAST = "best", "last"  # folders with a model each
CHECKPOINTS = "checkpoints"  # a folder with the states from which a run can go on
NONFINITE = "nonfinite-{step:06d}"  # a folder with a step that failed, for `vaekit replay`: a model, and
STEP_FILE, STEP_NOTES = "step.safetensors", "step.json"  # what the step saw, and what is to be read of it
