"""The experiments, a file for each: see vivit.cli.experiment."""
