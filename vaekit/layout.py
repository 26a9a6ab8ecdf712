"""The names in a run's folder: what `fit` and `vaekit train` write, and what the other commands look for."""

RUN_FILE = "run.json"  # everything that the run is made from
HISTORY_FILE = "history.csv"
BEST, LAST = "best", "last"  # folders with a model each
