"""What a run tells others while it goes on and when it has ended; nobody by default."""

from maxbench.tracking.base import POOLED, RUN, SWEEP, Subject, Tracker, tracking

__all__ = ["POOLED", "RUN", "SWEEP", "Subject", "Tracker", "tracking"]
