"""`python -m vivit`, as `torchrun -m vivit` calls it."""

from vivit.cli import main

main()
