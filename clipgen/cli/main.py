"""`clipgen VERB …`: one console script; each verb is a module of this package, imported when it is asked for."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable
from functools import partial

VERBS = {
    "run": "the whole way from a folder of images to a generator",
    "prep": "folder → image shards",
    "draw": "the demo world's pictures into a folder",
    "train": "one stage: vqgan, transformer, paired, super, or clip",
    "encode": "image shards → latent shards",
    "verify": "re-read shards against their manifest, and repair them",
    "browse": "a contact sheet of shards or latents",
    "gap": "how far texts lie from images, in numbers and a picture",
    "compare": "ways to train, side by side: as many FLOPs each, judged alike",
    "sample": "prompts → images",
    "caption": "images → captions, by a paired model trained for it",
    "upscale": "an image → the same at twice the size",
    "evaluate": "a generator judged on the demo world's prompts, or a tokenizer on held-out images",
    "export": "a self-contained model folder of a run",
    "report": "one page for a run, a sweep or a comparison",
}
# Verbs whose settings stand apart: `model` is a folder for them and a config group for the others.
TOOLS = ("sample", "caption", "upscale", "evaluate", "draw", "verify", "browse", "gap", "report")
SWEPT = ("run", "train")  # verbs of which each job of a sweep is a process with a folder of its own
HELP = ("-h", "--help", "help")


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in HELP:
        print(usage())
        raise SystemExit(0 if argv else 2)
    if argv[0] in ("-V", "--version"):
        from clipgen import __version__

        print(f"clipgen {__version__}")
        raise SystemExit(0)
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        fail(f"clipgen {verb}: there is no such command{_near(verb, VERBS)}; `clipgen --help` lists them")
    with reported():
        _launch(verb, rest)


def usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {does}" for verb, does in VERBS.items()]
    return (
        "clipgen: text-to-image generators from images without captions\n\n"
        "  clipgen run images=FOLDER name=NAME\n"
        '  clipgen sample model=outputs/NAME/model "a red bird"\n\n'
        + "\n".join(lines)
        + "\n\n`clipgen VERB --help` says what a command takes; settings are Hydra overrides (key=value).\n"
    )


def _launch(verb: str, rest: list[str]) -> None:
    from importlib import import_module

    import hydra

    from clipgen.cli import settings
    from clipgen.config import register

    register()
    settings.register()
    command: Callable = import_module(f"clipgen.cli.{verb}").main
    from clipgen.cli.words import for_hydra, named_folder, split_words, sweeps

    if verb == "sample":
        rest, prompts = split_words(rest)
        command = partial(command, prompts=prompts)
    if verb == "report":
        rest = named_folder(rest)
    rest = for_hydra(rest)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach `reported` instead of being printed by Hydra
    before, sys.argv = sys.argv, [f"clipgen {verb}", *rest]

    def task(cfg):
        with reported():  # in here, since Hydra puts a line of its own before what leaves it
            return command(cfg)

    if verb in SWEPT and sweeps(rest):
        from clipgen.cli.job import Job

        task = Job(verb)
    try:
        folder = "pkg://clipgen.conf.tools" if verb in TOOLS else "pkg://clipgen.conf"
        hydra.main(version_base="1.3", config_path=folder, config_name=verb)(task)()
    finally:
        sys.argv = before


class reported:
    """What a user can mend becomes one line and status 2, what was interrupted 130; a defect keeps its traceback."""

    def __enter__(self):
        return self

    def __exit__(self, kind, problem, trace) -> None:
        if problem is None or isinstance(problem, SystemExit):
            return
        from clipgen.errors import UserError

        if isinstance(problem, UserError):
            fail(str(problem))
        if isinstance(problem, KeyboardInterrupt) or kind.__name__ == "Interrupted":
            what = str(problem) or "stopped"
            print(f"\nclipgen: {what}; the same command again continues", file=sys.stderr)
            raise SystemExit(130) from None
        if isinstance(problem, BrokenPipeError):  # of `clipgen … | head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  Python flushes it at the end
            raise SystemExit(0) from None
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            fail(
                f"{problem.filename or 'the output'}: the disk is full; free some space and run the same command again"
            )
        if kind.__module__.startswith(("hydra.errors", "omegaconf.errors", "yaml.")) or "hydra" in kind.__module__:
            fail(_config_line(problem))


def _config_line(problem: BaseException) -> str:
    """Hydra's message of several lines as one that says the key and the mend."""
    if (setting := getattr(problem, "override", None)) is not None:  # it could not be read at all
        key, equals, value = setting.partition("=")
        if not equals:
            return f"'{setting}' is no setting; type one as key=value, such as name=birds"
        return f"{setting} cannot be read as a setting; quote its value, as in \"{key}='{value}'\""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    cause = problem.__cause__
    if cause is not None:
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "reference_type", "To append"))]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key")), None)
    text = " ".join(dict.fromkeys(kept))
    where = f"{key}: " if key and key not in text else ""
    if re.search("Could not find 'hydra/(launcher|sweeper)/", text):
        return f"{where}{text}; pip install 'clipgen[sweep]' where it is one of joblib, submitit_slurm, submitit_local"
    return f"{where}{text}; `clipgen VERB --cfg job` prints every key"


def _near(word: str, words) -> str:
    near = difflib.get_close_matches(word, words, 1)
    return f"; do you mean {near[0]}?" if near else ""


def fail(line: str) -> None:
    print(f"clipgen: error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
