"""python -m phalanx: what the launcher starts."""

from phalanx.cli import main

main()
