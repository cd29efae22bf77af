"""Settings nobody would think of, in thousands: what can be read is read the same again, all else is refused in words.

Nothing is trained or solved here: where a run would begin, its Trainer is made, and that is all.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import opkit.check
import opkit.cli.verbs
import opkit.seeds
import opkit.training
from opkit.cli.settings import SECTIONS, flatten
from opkit.errors import ConfigError
from opkit.registry import names

THOROUGH = pytest.param(500, marks=pytest.mark.slow)


def all_of(strategy: st.SearchStrategy, holds: Callable[[Any], None], examples: int, *more: Any) -> None:
    """Check what holds for everything that a strategy draws, the same ones every time, and for `more`."""
    check = given(strategy)(holds)
    for value in more:
        check = example(value)(check)
    settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # a smaller example is not worth its minutes
    )(check)()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Where files of settings lie; and no run gets further than its Trainer."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(opkit.training, "train", only_begin)
        patch.setattr(opkit.seeds, "train_seeds", lambda run, *_: [only_begin(run)])
        patch.setattr(opkit.check, "check", lambda run: [str(only_begin(run))])
        yield tmp_path_factory.mktemp("fuzz")


def only_begin(run: opkit.training.Run, resume: bool = False) -> Path:
    opkit.training.check_trainer(run.trainer)
    opkit.training._trainer(**run.trainer, logger=False, enable_progress_bar=False, enable_model_summary=False)
    return run.folder


def said(verb: str, *argv: str) -> str:
    """What a command prints; what it raises comes out."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        assert getattr(opkit.cli.verbs, verb)(list(argv)) == 0
    return out.getvalue()


# Settings of the right kind.

WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=30)
"""Arguments of a program cannot hold the character 0."""
FREE = {"run_dir", "gate", "logger", "loss.terms", "trainer.max_time"}
"""Settings that any text is of the right kind for."""


def like(value: Any) -> st.SearchStrategy:
    """Values of the kind of a default."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(-(10**30), 10**30)
    if isinstance(value, float):
        return st.floats()
    if isinstance(value, list):
        return st.tuples(*map(like, value)).map(list)
    return st.just(value)


@pytest.fixture(scope="module")
def defaults() -> dict[tuple[str, ...], dict[str, Any]]:
    """What the settings of commands are where none is given, by command line."""
    lines = [("train", f"--model={m}", "--pde=darcy") for m in names("model")]
    lines += [("train", "--model=fno", f"--pde={p}") for p in names("pde")]
    lines += [("generate", f"--pde={p}") for p in names("pde")]
    return {line: flatten(yaml.safe_load(said(*line, "--print_config"))) for line in lines}


def written(value: Any) -> str:
    """A value as one types it."""
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**9)[:-1]


@pytest.mark.parametrize("examples", [25, THOROUGH])
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "in a file"])
def test_settings_printed_and_given_back_are_the_same(defaults, folder, typed, examples):
    @st.composite
    def commands(draw):
        line = draw(st.sampled_from(sorted(defaults)))
        own = {k: v for k, v in defaults[line].items() if k not in ("pde.name", "model.name")}
        keys = draw(st.lists(st.sampled_from(sorted(own)), unique=True, max_size=8))
        return line, {k: draw(WORDS if k in FREE else like(own[k])) for k in keys}

    def holds(command):
        line, chosen = command
        path = folder / "given.yaml"
        given = [f"{key}={written(value).removesuffix(chr(10) + '...')}" for key, value in chosen.items()]
        if not typed:
            path.write_text(yaml.safe_dump(nested(chosen)))
            given = ["--config", str(path)]
        first = said(*line, *given, "--print_config")
        path.write_text(first)
        assert said(line[0], "--config", str(path), "--print_config") == first
        found = flatten(yaml.safe_load(first))
        for key, value in chosen.items():
            if not (isinstance(value, str) or (isinstance(value, float) and math.isnan(value)) or value is None):
                assert found[key] == value or "nan" in str(value), key

    all_of(commands(), holds, examples)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        place = out
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = value
    return out


@pytest.mark.parametrize("examples", [25, THOROUGH])
def test_a_text_is_read_as_it_is_typed(folder, examples):
    """Whatever YAML would make of it: shown by a setting of the command that is quickest to read."""

    def holds(name):
        try:
            config = yaml.safe_load(said("generate", "--pde=darcy", f"scheduler={name}", "--print_config"))
        except ConfigError as refusal:
            assert "scheduler" in str(refusal) and yaml.safe_load(name) is None
            return
        assert config["scheduler"] == (None if name.strip().lower() in ("null", "~") else name)

    names = ("läuf 1", "a=b", "[x", "{}", "- a", "a: b", "'x'", "1e3", "5", "true", "🜁", "# a", "null", "class")
    all_of(WORDS, holds, examples, *names)


# Settings of any other kind.

NUMBERS = st.sampled_from(
    [".nan", ".inf", "-.inf", "nan", "inf", "-1", "0", "1e400", "-1e400", "1e-400", "9" * 30, "9" * 5000, "0x10", "1_0",
     "²", "٣", "1" + "0" * 18]
)  # fmt: skip
JUNK = st.one_of(
    WORDS,
    NUMBERS,
    st.sampled_from(
        ["", " ", "[", "[" * 3000, "{" * 3000, "{a: 1}", "[1, [2, [3]]]", "!!python/object/apply:os.getcwd []",
         "!!set {a, b}", "&a [*a]", "!!bool x", "!!int ''", "!!float x", "!!timestamp x", "2026-99-99", "2026-11-22",
         "!!binary AAAA", "? [a]\n: b", "\ud800", "%", "a\nb", "---", "@x", "null", "true", "*a", "!x y",
         "class_path: os.system"]
    ),
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.dates(), st.datetimes(), st.binary()
)
VALUES = st.recursive(SCALARS, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(WORDS, v, max_size=3)))


def refused_or_begun(*argv: str) -> None:
    """Whatever is not a `ConfigError` comes out."""
    with contextlib.suppress(ConfigError):
        said(*argv)


TINY = ["pde.resolution=9", "pde.label_resolution=9", "pde.modes=8", "model.width=4", "model.n_modes=[4,4]",
        "evaluation.resolutions=[17]", "trainer.accelerator=cpu"]  # fmt: skip
TRAIN = ("train", "--model=fno", "--pde=darcy", *TINY)
"""The smallest run, for what a fuzzed setting leaves as it was."""


@pytest.mark.parametrize("examples", [60, THOROUGH])
def test_any_value_of_a_setting_is_taken_or_refused_in_words(defaults, folder, examples):
    known = sorted(defaults["train", "--model=fno", "--pde=darcy"])

    def holds(setting):
        key, value = setting
        refused_or_begun(*TRAIN, f"{key}={value}")

    all_of(
        st.tuples(st.sampled_from(known), JUNK), holds, examples, ("seed", str(2**32)), ("model.width", "9" * 30),
        ("model.width", "1" + "0" * 9), ("trainer.devices", "²"), ("trainer.limit_train_batches", ".nan"),
        ("trainer.max_time", "{days: x}"), ("trainer.strategy", "deepspeed"), ("pde.resolution", "9" * 30),
        ("pde.label_resolution", "9" * 18), ("trainer.precision", "transformer-engine"), ("data.seed", "9" * 99),
    )  # fmt: skip


@pytest.mark.parametrize("examples", [40, THOROUGH])
def test_any_key_of_a_setting_is_taken_or_refused_in_words(folder, examples):
    keys = st.one_of(
        WORDS, st.sampled_from(sorted(SECTIONS)), st.tuples(st.sampled_from(sorted(SECTIONS)), WORDS).map(".".join)
    )

    def holds(setting):
        key, value, dashes = setting
        refused_or_begun("generate", "--pde=darcy", f"{dashes}{key}={value}", "--print_config")

    all_of(st.tuples(keys, JUNK, st.sampled_from(["", "--"])), holds, examples, ("", "", "--"), ("pde.", "1", ""))


@pytest.mark.parametrize("examples", [60, THOROUGH])
@pytest.mark.parametrize("verb", ["train", "generate"])
def test_any_file_of_settings_is_taken_or_refused_in_words(folder, verb, examples):
    """Of text, of bytes, and of values of any kind at sections that exist or do not."""
    sections = st.one_of(st.sampled_from(sorted(SECTIONS)), WORDS, st.integers(), st.none())
    keys = st.one_of(st.sampled_from(["name", "train", "resolution", "width", "lr", "max_epochs", "class_path"]), WORDS)
    trees = st.dictionaries(sections, st.one_of(VALUES, st.dictionaries(keys, VALUES, max_size=3)), max_size=4)
    names = {"pde": {"name": "darcy"}, "model": {"name": "fno"}}
    contents = st.one_of(
        st.binary(max_size=100), JUNK.map(lambda text: text.encode(errors="surrogatepass")),
        trees.map(lambda tree: yaml.safe_dump(tree).encode()),
        trees.map(lambda tree: yaml.safe_dump(names | tree).encode()),
        st.tuples(st.sampled_from(["data", "data.train", "pde", "run_dir", "trainer.devices", "seed"]), JUNK).map(
            lambda s: yaml_at(*s).encode(errors="surrogatepass")
        ),
    )  # fmt: skip

    def holds(content):
        path = folder / "junk.yaml"
        path.write_bytes(content)
        refused_or_begun(verb, "--config", str(path), "--print_config")

    all_of(
        contents,
        holds,
        examples,
        b"pde: &a {name: darcy, x: *a}",
        b"[" * 3000,
        b"{pde: " * 3000,
        b"2026-99-99",
        b"!!bool x",
    )


def yaml_at(place: str, value: str) -> str:
    """A file that names its problem and has a text, whatever it means in YAML, at one place."""
    lines = ["pde: {name: darcy}", "model: {name: fno}"]
    section, _, key = place.partition(".")
    return "\n".join(
        [*(x for x in lines if not x.startswith(section)), f"{section}:" + (f"\n  {key}: " if key else " ") + value]
    )
