"""`python -m voxfit` is the command `voxfit`."""

from voxfit.cli import main

main()
