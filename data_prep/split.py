"""Which samples are kept for validation: those whose content hash is below a threshold, so no picture has two sides."""

from dataclasses import dataclass

from data_prep.chunk import Chunk, Note

FEW = 20  # from this many images on, one is kept for validation


@dataclass(frozen=True)
class Extremes:
    """The lowest and highest content hash of a chunk's samples, and how many there are."""

    lowest: int | None
    highest: int | None
    samples: int

    @classmethod
    def of(cls, chunk: Chunk) -> "Extremes":
        note = Note.read(chunk.note)
        return cls(note.lowest, note.highest, note.samples)

    def change_sides(self, threshold: int, moved: int) -> bool:
        """Whether a sample changes its side when the threshold moves to its neighbour."""
        if self.lowest is None or self.highest is None:
            return False
        return self.lowest < moved if moved > threshold else self.highest >= moved


def threshold_of(val_fraction: float) -> int:
    """The content hash below which a sample is kept for validation."""
    return int(val_fraction * 2**64)


def with_both_sides(chunks: list[Extremes], threshold: int) -> int:
    """The threshold nearest to the given one that leaves a training sample, and with FEW samples one to validate."""
    lows = [chunk.lowest for chunk in chunks if chunk.lowest is not None]
    highs = [chunk.highest for chunk in chunks if chunk.highest is not None]
    if not lows:
        return threshold
    if max(highs) < threshold:
        return max(highs)
    if 0 < threshold <= min(lows) < max(highs) and sum(chunk.samples for chunk in chunks) >= FEW:
        return min(lows) + 1
    return threshold
