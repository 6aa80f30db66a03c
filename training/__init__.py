"""How the shipped weights are made and measured: pairs, losses, the loop, evaluation. Imports `model`, never `service`."""
