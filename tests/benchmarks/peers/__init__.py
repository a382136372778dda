"""One module per peer. Each has `prepare(workload)`, which returns a function of the number of epochs.

That function is what is timed: it takes NumPy arrays, starts from new parameters, trains, and has every loss
on the host when it returns. It returns the steps it took, the mean loss of its last epoch, and the device it ran on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """Something to compare with.

    Attributes:
        name: on the command line and in the results; also the module's.
        title: what it is, in the table.
        in_kernel: whether it runs in the notebook kernel; if not, in a process of its own.
        needs: module without which it is left out.
    """

    name: str
    title: str
    in_kernel: bool
    needs: str


PEERS = {
    p.name: p
    for p in (
        Peer("dlfb", "dlfb_lab.train, live view and journal on", True, "dlfb_lab"),
        Peer("loop", "(a) jitted step, NumPy batches, float(loss) each step", True, "flax"),
        Peer("scan", "(b) hand-written lax.scan over the epoch", True, "flax"),
        Peer("steps", "(e) jitted step, state donated, losses fetched once an epoch", True, "flax"),
        Peer("keras", "(c) Keras on JAX, model.fit", False, "keras"),
        Peer("torch", "(d) PyTorch with a DataLoader", False, "torch"),
    )
}
