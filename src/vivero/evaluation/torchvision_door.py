"""Lets torchvision be imported beside a CPU-only torch; called before timm or clean-fid are.

PyPI's torchvision is built for CUDA: beside a CPU build of torch its C operators cannot load, and
its registrations for them fail at import. Declaring the two schemas they need is enough, because
nothing here calls them.
"""

import functools

import torch

MISSING_OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def open_torchvision_door() -> "torch.library.Library | None":
    """Declare torchvision's missing operators once; with a CUDA build of torch, do nothing.

    Returns:
        The library that holds the declarations; the cache keeps it alive.
    """
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in MISSING_OPERATORS:
        try:
            library.define(f"{name}{SCHEMA}")  # type: ignore[no-untyped-call]
        except RuntimeError:  # a CPU build of torchvision has declared it already
            continue
    return library
