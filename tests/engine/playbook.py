"""Feeds a machine events and shows the effects; what every engine test is written with."""

from __future__ import annotations

from typing import Any

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.pacing import PacingSettings
from replicator.engine.pipeline import PipelineSettings
from replicator.engine.primary import PrimaryMachine, PrimarySettings

INTERVAL_NS = 50_000_000
SEED = b"seed-one"


class Play:
    """A machine and a clock that moves by a microsecond an event."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.now_ns = 0

    def __call__(self, *events: ev.Event) -> list[fx.Effect]:
        """Effects of the last event."""
        effects: list[fx.Effect] = []
        for event in events:
            self.now_ns += 1_000
            effects = self.machine.handle(event, self.now_ns)
        return effects


def digest_of(epoch: int) -> bytes:
    return epoch.to_bytes(16, "big")


def make_primary(**settings: Any) -> Play:
    pacing = settings.pop("pacing", PacingSettings(INTERVAL_NS))
    pipeline = PipelineSettings(pacing, staging_pages=4096, **settings.pop("pipeline", {}))
    return Play(PrimaryMachine(PrimarySettings(pipeline, SEED, **settings)))


def connect(play: Play, committed: int = 0, digest: bytes = b"") -> list[fx.Effect]:
    play(ev.LinkUp())
    return play(ev.PeerAccepted(play.machine.session, committed, digest))


def live_copied(epoch: int, pages: int, remaining: int = 0) -> ev.LiveCopied:
    """A pass at about 400 MB/s."""
    return ev.LiveCopied(epoch, pages, remaining, pages * 10_000)


def checkpoint(play: Play, epoch: int, *, dirty: int = 300, held_frames: int = 0) -> list[fx.Effect]:
    """From the pause to the send."""
    play(ev.GuestPaused(epoch, dirty, held_frames), ev.PagesCopied(epoch), ev.DeviceStateSaved(epoch))
    return play(ev.GuestResumed(epoch))


def commit(play: Play, epoch: int) -> list[fx.Effect]:
    play(ev.EpochSealed(epoch, digest_of(epoch)))
    return play(ev.EpochAcked(play.machine.session, epoch, digest_of(epoch)))


def protect(play: Play) -> None:
    """Synchronise and lift the bar: epoch 1 is committed."""
    connect(play)
    play(live_copied(1, 100))
    checkpoint(play, 1)
    commit(play, 1)
    play(ev.BarLifted())


def kinds(effects: list[fx.Effect]) -> list[type]:
    return [type(effect) for effect in effects]
