"""Edits in flight. One worker thread owns the loop. All other threads leave requests, wait, and listen."""

from .following import Demand, News
from .ticket import LOG, Listener, Progress, Ticket
from .worker import Worker

__all__ = ["LOG", "Demand", "Listener", "News", "Progress", "Ticket", "Worker"]
