"""The worlds whose pictures are judged by their pixels: for each, its prompts and its judge."""

from types import ModuleType


def prompts_and_judge(name: str) -> tuple[ModuleType, ModuleType]:
    """Two modules, whose functions have the same names in every world."""
    if name == "two":
        from clipgen.evaluation import two
        from clipgen.shapes import two_prompts

        return two_prompts, two
    from clipgen.evaluation import world
    from clipgen.shapes import prompts

    return prompts, world
