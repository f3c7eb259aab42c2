"""Decides what each engine call computes. Pure, synchronous Python: time comes in as an argument."""

from stoker.scheduler.expiry import Expiry
from stoker.scheduler.limits import SchedulerLimits
from stoker.scheduler.scheduler import Scheduler

__all__ = ["Expiry", "Scheduler", "SchedulerLimits"]
