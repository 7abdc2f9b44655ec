"""Rules that a comparison of many machines answers: `gpucheck fleet judge` (see fleet/rules.py).

Here are their codes, severities and explanations, so that `explain` and the docs know them; of one
machine alone none of them can be asked.
"""

from gpucheck.rule import Answers, NotApplicable, Severity, rule
from gpucheck.snapshot import Snapshot


def _compared() -> Answers:
    yield NotApplicable(why="it compares machines: gpucheck fleet judge")


@rule("FLT001", Severity.WARNING, "A node differs from its peers")
def differs(machine: Snapshot) -> Answers:
    """At least four of five true peers agree on this fact, and these nodes have another value.

    Peers are machines with the same GPU models, number of GPUs, product and number of RDMA devices.
    No list of right values is needed: the majority is the norm. A node that was missed by an
    update, that was repaired with another board, or that somebody set by hand shows up here before
    it slows down or breaks a job that spans many nodes.
    """
    yield from _compared()


@rule("FLT002", Severity.INFO, "A group of peers is mixed")
def mixed(machine: Snapshot) -> Answers:
    """True peers do not agree on this fact, and no value has a majority of four fifths.

    An update that is half done looks like this. Jobs that span both kinds of nodes may run at the
    slower one's speed, or not at all where versions have to match.
    """
    yield from _compared()


@rule("FLT003", Severity.ERROR, "A node was not examined")
def not_examined(machine: Snapshot) -> Answers:
    """The node was asked for, and no snapshot of it can be judged: nothing is known of it.

    It is drained, refuses the login, did not answer in time, was killed, or what it sent is
    unreadable. A fleet of which a node is unknown is not healthy.
    """
    yield from _compared()


@rule("FLT010", Severity.WARNING, "A GPU is slower than the others of its kind")
def straggler(machine: Snapshot) -> Answers:
    """This GPU is at least 5 % under the fleet's median, far outside the fleet's own spread.

    The bound grows with the number of GPUs, so that a fleet of healthy ones names none: the loss
    over the robust standard deviation (1.4826 times the median absolute deviation, at least 1 %)
    has to exceed sqrt(2 ln N) + 1.5. A job over many GPUs runs at the pace of its slowest.
    """
    yield from _compared()


@rule("FLT011", Severity.WARNING, "The same place is slow on many nodes")
def slow_place(machine: Snapshot) -> Answers:
    """GPUs in one slot of many nodes, or on the nodes of one rack, are slow together.

    That is one cause, not many bad GPUs: the last GPU in the airflow, a power shelf, a rack's
    cooling, a switch. Racks are known where a file names them (`--racks`).
    """
    yield from _compared()


@rule("FLT012", Severity.WARNING, "A node is flagged again and again")
def lemon(machine: Snapshot) -> Answers:
    """The node had an error or a warning of its own in 3 of its last 10 runs, this one counted.

    A few such nodes cause a large part of a cluster's failed jobs; each single time the fault
    seemed to be gone after a reset.
    """
    yield from _compared()


@rule("FLT020", Severity.ERROR, "A node fails or slows what it computes with others")
def failing_node(machine: Snapshot) -> Answers:
    """This node went wrong with several partners, who are well with others.

    `gpucheck fleet run allreduce` lets each node add up numbers with one other, in two rounds with
    different partners, and has those that went wrong meet a node that was well. What a node does
    with others is its own: a GPU, an adapter, a cable, its software. The sums are exact, so that
    wrong bytes show whatever the speed. A job over many nodes stops at, or waits for, such a node.
    """
    yield from _compared()


@rule("FLT021", Severity.ERROR, "A path between two nodes fails or is slow")
def failing_path(machine: Snapshot) -> Answers:
    """Two nodes went wrong with each other, and both are well with others.

    What is between them is at fault: a switch, a link between switches, a routing table, a firewall
    rule. Where no other well node was left to meet, it is said that the path or one of the two is.
    """
    yield from _compared()
