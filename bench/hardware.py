"""What the hardware can do at most: a large matrix product and 3x3 convolutions, by precision."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

SIDE = 2048
# Images, channels and side of the convolutions; the best of them is the peak.
CONVOLUTIONS = ((64, 96, 32), (64, 128, 14), (64, 192, 14), (32, 256, 14))
NUM_TIMES = 7
LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak_flops(device: torch.device) -> dict[str, float]:
    """Operations per second: "fp32 product", "fp32 convolution nchw" and so on."""
    peaks = {}
    for precision, dtype in DTYPES.items():
        left, right = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
        seconds = median_s(lambda a=left, b=right: a @ b, device)
        peaks[f"{precision} product"] = 2 * SIDE**3 / seconds
        for name, layout in LAYOUTS.items():
            peaks[f"{precision} convolution {name}"] = max(
                convolution_flops(shape, dtype, layout, device) for shape in CONVOLUTIONS
            )
    return peaks


@torch.no_grad()
def convolution_flops(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    layout: torch.memory_format,
    device: torch.device,
) -> float:
    """Operations per second of a 3x3 convolution that keeps its number of channels."""
    num_images, channels, side = shape
    images = torch.randn(num_images, channels, side, side, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device)
    images, weight = (x.to(dtype).to(memory_format=layout) for x in (images, weight))
    seconds = median_s(lambda: F.conv2d(images, weight, padding=1), device)
    return 2 * 9 * num_images * channels**2 * side**2 / seconds


def median_s(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, the first two left out."""
    seconds = []
    for time_of in range(NUM_TIMES + 2):
        wait(device)
        began_at = time.perf_counter()
        call()
        wait(device)
        if time_of > 1:
            seconds.append(time.perf_counter() - began_at)
    return statistics.median(seconds)


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 itself, or only pretends to."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and _cpu_flag("avx512_bf16")


def _cpu_flag(flag: str) -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:  # noqa: PTH123 - not a file on a disk
            return any(flag in line.split() for line in file if line.startswith("flags"))
    except OSError:
        return False
