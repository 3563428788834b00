"""Text-to-image generators trained without captions (CLIP-GEN, arXiv 2203.00386)."""

__version__ = "0.1.0"
__all__ = ["Captioner", "ClipGen", "Upscaler", "__version__"]


def __getattr__(name: str):
    if name == "ClipGen":  # torch and open_clip take seconds to import; `import clipgen` does not need them
        from clipgen.pipeline import ClipGen

        return ClipGen
    if name == "Captioner":
        from clipgen.caption_pipeline import Captioner

        return Captioner
    if name == "Upscaler":
        from clipgen.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
