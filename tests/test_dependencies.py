"""Who may know whom: the rules of docs/architecture.md, read off the imports."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("clipgen", "data_prep", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


@dataclass(frozen=True)
class Import:
    """`module` as it is imported by `file`, and whether that happens when the file itself is imported."""

    file: str
    module: str
    at_once: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def within(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(package + ".") for package in packages)

    def __str__(self) -> str:
        return f"{self.file} imports {self.module}"


def imports_of(file: str) -> Iterator[Import]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_once = id(node) not in inner
        if isinstance(node, ast.Import):
            yield from (Import(file, name.name, at_once) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            for name in node.names:  # `from clipgen.cli import stages` imports clipgen.cli.stages
                full = f"{node.module}.{name.name}"
                yield Import(file, full if is_module(full) else node.module, at_once)


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


IMPORTS = [each for file in FILES for each in imports_of(file)]


def files(*patterns: str) -> list[str]:
    found = [file for file in FILES if any(fnmatch(file, pattern) for pattern in patterns)]
    assert found, patterns  # a pattern that fits nothing would test nothing
    return found


def imported_by(*patterns: str) -> list[Import]:
    chosen = set(files(*patterns))
    return [each for each in IMPORTS if each.file in chosen]


def none(bad: list[Import]) -> None:
    assert not bad, "; ".join(map(str, bad))


def test_the_imports_were_found():
    found = {(each.file, each.module) for each in IMPORTS}
    assert ("clipgen/pipeline.py", "clipgen.clip.frozen") in found
    assert ("clipgen/__init__.py", "clipgen.pipeline") in found  # inside a function
    assert ("clipgen/cli/run.py", "clipgen.cli.stages") in found  # from clipgen.cli import stages
    assert len(FILES) > 50


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        (("hydra", "omegaconf"), ("clipgen/cli/*", "clipgen/config.py")),
        (("pytorch_lightning", "lightning"), ("clipgen/*/module.py", "clipgen/callbacks/*", "clipgen/cli/*")),
        (("taming",), ("clipgen/tokenizer/*",)),
        (("vector_quantize_pytorch",), ("clipgen/tokenizer/quantize/finite_scalar.py",)),
        (("open_clip",), ("clipgen/clip/*",)),
        (("webdataset",), ("clipgen/data/shards.py",)),
        (("sentencepiece",), ("clipgen/paired/text.py",)),
        (("ray",), ("data_prep/on_ray.py",)),
        (("submitit",), ("data_prep/on_slurm.py",)),
        (("optuna",), ("clipgen/cli/*",)),
        (("filelock",), ("clipgen/data/lock.py", "clipgen/cli/sweep.py")),
        (("clipgen.cli",), ("clipgen/cli/*",)),
        (
            ("clipgen.config", "clipgen.defaults", "clipgen.check"),
            ("clipgen/cli/*", "clipgen/defaults.py", "clipgen/check/*", "clipgen/tools.py"),
        ),
        (("clipgen.tools",), ("clipgen/cli/*", "clipgen/config.py")),
        (("data_prep",), ("data_prep/*", "clipgen/cli/*", "clipgen/config.py")),
        (("torchvision", "lightning_fabric", "pickle5", "dill", "cloudpickle"), ()),
    ],
)
def test_a_package_is_known_in_its_homes_only(package, homes):
    at_home = set(files(*homes)) if homes else set()
    library = [each for each in IMPORTS if not each.file.startswith("benchmarks/")]
    none([each for each in library if each.within(*package) and each.file not in at_home])


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("clipgen/tokenizer/*", ("clipgen.tokenizer", "clipgen.errors", "clipgen.ranks", "clipgen.schedule")),
        ("clipgen/ranks.py", ()),
        ("clipgen/bf16.py", ()),
        ("clipgen/transformer/*", ("clipgen.transformer", "clipgen.errors")),
        ("clipgen/paired/*", ("clipgen.paired", "clipgen.transformer", "clipgen.data.atomic", "clipgen.errors")),
        ("clipgen/upscale/*", ("clipgen.upscale", "clipgen.transformer")),
        ("clipgen/clip/*", ("clipgen.clip", "clipgen.checkpoint", "clipgen.data", "clipgen.errors")),
        ("clipgen/data/*", ("clipgen.data", "clipgen.errors")),
        ("clipgen/shapes/*", ("clipgen.shapes",)),
        ("clipgen/callbacks/*", ("clipgen.callbacks", "clipgen.data.atomic", "clipgen.errors", "clipgen.ranks")),
        ("clipgen/checkpoint.py", ("clipgen.data.atomic", "clipgen.errors")),
        ("clipgen/errors.py", ()),
        ("clipgen/page.py", ()),
        ("clipgen/picture.py", ()),
        ("clipgen/schedule.py", ()),
        ("clipgen/__init__.py", ("clipgen.pipeline", "clipgen.caption_pipeline", "clipgen.upscaler")),
        (
            "clipgen/upscaler.py",
            (
                "clipgen.generator", "clipgen.pretrained", "clipgen.tokenizer", "clipgen.transformer",
                "clipgen.upscale", "clipgen.data", "clipgen.errors",
            ),
        ),
        (
            "clipgen/generator.py",
            ("clipgen.tokenizer", "clipgen.transformer", "clipgen.data", "clipgen.errors"),
        ),
        (
            "clipgen/pipeline.py",
            (
                "clipgen.generator", "clipgen.pretrained", "clipgen.clip", "clipgen.tokenizer", "clipgen.transformer",
                "clipgen.data", "clipgen.errors",
            ),
        ),
        (
            "clipgen/paired_pipeline.py",
            ("clipgen.pipeline", "clipgen.clip", "clipgen.tokenizer", "clipgen.paired", "clipgen.errors"),
        ),
        (
            "clipgen/caption_pipeline.py",
            (
                "clipgen.generator", "clipgen.pretrained", "clipgen.tokenizer", "clipgen.transformer", "clipgen.paired",
                "clipgen.checkpoint", "clipgen.data", "clipgen.errors",
            ),
        ),
        (
            "clipgen/pretrained.py",
            (
                "clipgen.pipeline", "clipgen.paired_pipeline", "clipgen.caption_pipeline", "clipgen.upscaler",
                "clipgen.clip", "clipgen.tokenizer", "clipgen.transformer", "clipgen.paired", "clipgen.upscale",
                "clipgen.checkpoint", "clipgen.data", "clipgen.errors",
            ),
        ),
        (
            "clipgen/evaluation/*",
            (
                "clipgen.evaluation", "clipgen.clip", "clipgen.data", "clipgen.errors", "clipgen.generator",
                "clipgen.page", "clipgen.picture", "clipgen.pipeline", "clipgen.shapes", "clipgen.tokenizer",
                "clipgen.transformer",
            ),
        ),
        (
            "data_prep/*",
            (
                "data_prep", "clipgen.checkpoint", "clipgen.data", "clipgen.errors", "clipgen.page", "clipgen.picture",
            ),
        ),
    ],
)  # fmt: skip
def test_what_a_part_may_know_of_ours(part, allowed):
    extra = ("clipgen.callbacks", "clipgen.ranks", "clipgen.schedule", "clipgen.data.transforms")  # of what trains
    for each in imported_by(part):
        if each.top in ("clipgen", "data_prep"):
            permitted = allowed + extra if fnmatch(each.file, "clipgen/*/module.py") else allowed
            assert each.within(*permitted), str(each)


@pytest.mark.parametrize(("stage", "other"), [("tokenizer", "transformer"), ("transformer", "tokenizer")])
def test_the_two_stages_never_import_each_other(stage, other):
    none([each for each in imported_by(f"clipgen/{stage}/*") if each.within(f"clipgen.{other}", "clipgen.clip")])


@pytest.mark.parametrize(
    ("stage", "third_parties"),
    [
        ("tokenizer", {"torch", "taming", "vector_quantize_pytorch"}),
        ("transformer", {"torch"}),
        ("paired", {"torch", "sentencepiece"}),
        ("upscale", {"torch"}),
    ],
)
def test_models_caches_samplers_and_losses_import_torch_only(stage, third_parties):
    for each in imported_by(f"clipgen/{stage}/*"):
        if each.file != f"clipgen/{stage}/module.py" and each.top not in sys.stdlib_module_names | {"clipgen"}:
            assert each.top in third_parties, str(each)


def test_data_without_a_module_needs_no_lightning():
    none([each for each in imported_by("data_prep/*") if each.within("clipgen.data.module")])


def test_taming_is_imported_by_submodule():
    """Its Lightning parts do not import today."""
    for each in imported_by("clipgen/*"):
        if each.top == "taming":
            assert each.within("taming.modules.diffusionmodules.model", "taming.modules.discriminator.model"), str(each)


def test_the_package_itself_imports_nothing_at_once():
    none([each for each in imported_by("clipgen/__init__.py") if each.at_once])


def test_the_command_imports_nothing_heavy_at_once():
    for each in imported_by("clipgen/cli/main.py"):
        assert not each.at_once or each.top in sys.stdlib_module_names, str(each)


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{file}:{node.lineno}", node, ast.unparse(node.func)


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


def test_no_pickle_is_ever_loaded():
    seen = 0
    for where, call, name in calls():
        if name == "torch.load":
            seen += 1
            assert keyword(call, "weights_only") == "True", f"{where}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load"):
            seen += 1
            assert keyword(call, "allow_pickle") == "False", f"{where}: np.load without allow_pickle=False"
        last = name.rpartition(".")[2]
        if last in ("fit", "validate", "test") and name.startswith("trainer."):
            seen += 1
            if keyword(call, "ckpt_path") is not None:
                assert keyword(call, "weights_only") == "True", f"{where}: {name} without weights_only=True"
        assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), where
        assert last not in ("load_from_checkpoint", "read_pickle", "unsafe_load"), where
        assert name not in ("eval", "exec", "yaml.load"), where
    assert seen >= 2  # they go by these names


def test_loaders_are_called_by_their_full_names():
    """So that the test above sees them."""
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "pickle", "webdataset"):
                names = {name.name for name in node.names}
                assert not names & {"load", "loads", "Unpickler", "WebDataset", "WebLoader"}, f"{file}:{node.lineno}"


def test_files_are_named_after_a_subject():
    every = [path for folder in ("clipgen", "data_prep", "tests", "benchmarks") for path in (ROOT / folder).rglob("*")]
    names = {path.stem.removeprefix("test_") for path in every}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
