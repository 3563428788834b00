"""Texts for the mean of the text side: a CLIP's own captions where there are some, else templates filled with words."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from clipgen.clip.frozen import LOCAL_DIR
from clipgen.errors import UserError

CAPTIONS = "captions.txt"  # beside the weights of a CLIP that clipgen trained
TEMPLATES = (
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "{}",
    "a close-up of {}",
    "an image showing {}",
    "there is {} in this picture",
    "{}, with a plain background",
)


def reference_texts(clip_model: str, captions: str | None = None) -> tuple[list[str], str]:
    """Texts and where they are from. They need no pairing with any image: only their mean is used."""
    if captions:
        return read_texts(captions, f"clip.captions={captions}"), captions
    if clip_model.startswith(LOCAL_DIR):
        own = Path(clip_model.removeprefix(LOCAL_DIR)) / CAPTIONS
        if own.is_file():
            return read_texts(own, str(own)), f"{CAPTIONS} of the CLIP"
    return fill_templates(TEMPLATES), "templates and words of the package"


def fill_templates(templates: Sequence[str], name: str = "") -> list[str]:
    """Every template with every word of the package; UserError where one of the file `name` has no {}."""
    for template in templates:
        if "{}" not in template:
            raise UserError(f'templates={name} has "{template}" without {{}}; put {{}} where a word comes')
    words = files("clipgen.clip").joinpath("words.txt").read_text(encoding="utf-8").split("\n")
    return [template.replace("{}", _with_article(word)) for word in words if word for template in templates]


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def read_texts(path: str | Path, name: str, what: str = "caption") -> list[str]:
    """The lines of a text file that are not blank; a UserError calls the file `name` and a line a `what`."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(
            f"{name} cannot be read ({problem}); give a UTF-8 text file with one {what} a line"
        ) from problem
    texts = [line for line in lines if line]
    if not texts:
        raise UserError(f"{name} has no {what} in it; give a text file with one {what} a line")
    if "caption" in texts[0].split("\t")[1:]:  # as `clipgen prep` takes it
        raise UserError(f"{name} is a table; give a text file with its captions alone, one a line")
    return texts
