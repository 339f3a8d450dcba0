"""Several adapters trained in one forward pass over one frozen model.

Every member of a pack is an ordinary training run with a Trainer, an optimizer, a schedule, clipping, checkpoints and
random numbers of its own (``members``). Only the frozen body of the model is passed through together: at its door
the members wait for each other, their batches are stacked, and every layer with an adapter adds each member's own
update to its own rows (``stacked_body``). A member therefore computes what it would compute alone, and no number of
one member reaches another.
"""

from advisor.strategies.packing_rules import check_pack, pack_problem
from advisor.training.packing.run import train_pack

__all__ = ["check_pack", "pack_problem", "train_pack"]
