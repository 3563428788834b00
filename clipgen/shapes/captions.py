"""What a caption of the demo world says, read back by the sentences that captions are made of (draw.py)."""

import re
from dataclasses import dataclass
from functools import cache

from clipgen.shapes.draw import CAPTIONS, COLOURS, SHAPES, SIZE_WORDS, UNSIZED_CAPTIONS, Scene

_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
_WORDS = {"shape": SHAPES, "colour": COLOURS, "background": COLOURS, "size": _SIZE_OF}


@dataclass(frozen=True)
class Told:
    """What a caption names; its size is None where it names none."""

    shape: str
    colour: str
    background: str
    size: str | None

    def right(self, scene: Scene) -> dict[str, bool]:
        """Of each attribute that is named whether the scene has it, and whether it has all of them."""
        found = {name: getattr(self, name) == getattr(scene, name) for name in ("shape", "colour", "background")}
        if self.size is not None:
            found["size"] = self.size == scene.size
        return found | {"all": all(found.values())}


def read_caption(text: str) -> Told | None:
    """What a text says, or None where it is none of the sentences."""
    for sentence in _sentences():
        if found := sentence.fullmatch(text):
            named = found.groupdict()
            return Told(named["shape"], named["colour"], named["background"], _SIZE_OF.get(named.get("size")))
    return None


@cache
def _sentences() -> list[re.Pattern[str]]:
    named = {name: f"(?P<{name}>{'|'.join(words)})" for name, words in _WORDS.items()}
    return [re.compile(template.format(**named)) for template in dict.fromkeys((*CAPTIONS, *UNSIZED_CAPTIONS))]
