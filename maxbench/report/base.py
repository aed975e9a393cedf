"""What the figures share: how lines are told apart."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of lines: those of Okabe and Ito (2008) that can be told apart without red or green, less the yellow, which is too
faint on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # one more than colours: a pair comes again after 56 lines
