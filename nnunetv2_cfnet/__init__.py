"""CFNet for nnU-Net: a dual-encoder, multi-modal segmentation network as an installable trainer plugin."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_cfnet.architecture.cfnet import CFNet

__version__ = "0.1.0"
__all__ = ["CFNet"]


def __getattr__(name: str) -> Any:
    """CFNet, imported when it is asked for: torch takes seconds, which `nnunetv2_cfnet --help` need not."""
    if name == "CFNet":
        from nnunetv2_cfnet.architecture.cfnet import CFNet

        return CFNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
