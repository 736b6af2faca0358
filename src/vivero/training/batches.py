"""What a process trains on, as a function of the clock: its images, labels and noise."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from torch import Tensor

from vivero.config.schema import TrainConfig
from vivero.data.batches import batch_indices
from vivero.training.distributed import Workers
from vivero.training.feed import Feed
from vivero.training.loss import Objective, kept_labels
from vivero.training.randomness import Moment, NoiseDraw, draw_noise
from vivero.training.routing import Router, Routing


@dataclass(frozen=True)
class Batch:
    """One process's part of a joint batch.

    Attributes:
        clean: Images, shape (B, C, H, W), range [-1, 1].
        labels: Class or null label, shape (B,), int64.
        draw: Noise, noise level and dropped label of each.
        routing: Where each enters a tree; None for other networks.
    """

    clean: Tensor
    labels: Tensor
    draw: NoiseDraw
    routing: Routing | None = None

    def parts(self, num_parts: int) -> Iterator["Batch"]:
        """The batch in equal parts, in order."""
        size = len(self.clean) // num_parts
        for begin in range(0, len(self.clean), size):
            rows = slice(begin, begin + size)
            routing = self.routing[rows] if self.routing is not None else None
            yield Batch(self.clean[rows], self.labels[rows], self.draw[rows], routing)


@dataclass(frozen=True)
class Batches:
    """The endless stream of a process's batches.

    On a GPU the next batch is made and copied by a thread while this one is trained on.

    Attributes:
        config: Settings of the run.
        workers: This process among those that train together.
        feed: The images to train on.
        objective: Says how noise levels and labels are drawn.
        router: Sends images to the branches of a tree; None for other networks.
    """

    config: TrainConfig
    workers: Workers
    feed: Feed
    objective: Objective
    router: Router | None = None
    _ahead: dict[int, "Future[Batch]"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def at(self, begin: int) -> Batch:
        """This process's part of the joint batch that begins after `begin` images."""
        if self.workers.device.type != "cuda":
            return self.made(begin)
        future = self._ahead.pop(begin, None)
        self._ahead.clear()
        following = begin + self.config.batch_images
        self._ahead[following] = _thread().submit(self.made, following)
        return self.made(begin) if future is None else future.result()

    def made(self, begin: int) -> Batch:
        """The same, made now."""
        clean, labels = self.feed.at(self.rows(begin))
        draw = self.draw(begin)
        routing = self.routing(begin, draw)
        draw = draw.to(self.workers.device)
        labels = kept_labels(labels, draw.is_unlabelled, self.objective.null_label)
        return Batch(clean, labels, draw, routing)

    def routing(self, begin: int, draw: NoiseDraw) -> Routing | None:
        """Where the images enter a tree, by the noise of their draw, which is on the CPU."""
        if self.router is None:
            return None
        num_images, moment = self.config.batch_images, Moment(self.config.seed, "train", begin)
        return self.router.at(moment, draw.sigma, self.workers.share_of(num_images), num_images)

    def rows(self, begin: int) -> np.ndarray:
        """Rows of the feed, shape (B,)."""
        config = self.config
        joint = batch_indices(config.seed, len(self.feed), begin, config.batch_images)
        return joint[self.workers.share_of(config.batch_images)]

    def keys(self, begin: int) -> list[str]:
        """Names of the images."""
        return [self.feed.keys[row] for row in self.rows(begin).tolist()]

    def draw(self, begin: int) -> NoiseDraw:
        """Their noise, on the CPU."""
        config, objective = self.config, self.objective
        return draw_noise(
            Moment(config.seed, "train", begin),
            (config.batch_images, *self.feed.images.shape[1:]),
            self.workers.share_of(config.batch_images),
            objective.schedule.draw_sigma,
            objective.label_dropout,
        )


@lru_cache(maxsize=1)
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="batches")
