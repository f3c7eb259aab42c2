"""Preemption by recomputation, when blocks or places run out.

The victim is always the last running sequence in order: the last due of the lowest priority. So the
first in order is never preempted while it runs, can take the blocks of everybody else, and ends;
then so does the next one. Two sequences cannot preempt each other in turn.
"""

from stoker.kvcache import KVCache
from stoker.scheduler.queue import SequenceQueue
from stoker.scheduler.waiting import WaitingQueue


def preempt_last(running: SequenceQueue, waiting: WaitingQueue, cache: KVCache) -> None:
    """Send the last running sequence back to its place in the queue, with its sampled tokens.

    Its computed blocks stay cached until they are evicted, so it may find them again.
    """
    victim = running.items.pop()
    cache.release(victim.table)
    victim.table = []
    victim.n_computed = 0
    victim.n_published = 0
    victim.waits_since = None
    waiting.add(victim)
