"""Every shipped YAML file composes, and invalid input is refused in one clear line."""

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from flowertune import cli
from flowertune.commands import compose as commands_compose
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.messages import unparsable_message
from flowertune.config.overrides import quote_plain
from flowertune.config.schema import Config
from flowertune.errors import UsageError

Compose = Callable[..., Config]
GROUPS = sorted(path for path in conf_dir().iterdir() if path.is_dir())
OPTIONS = [
    (group.name, str(path.relative_to(group).with_suffix("")))
    for group in GROUPS
    for path in sorted(group.rglob("*.yaml"))
]
SWEEPS = [name for _, name in OPTIONS if name.startswith(("sweep/", "search/"))]
SINGLE = [(group, name) for group, name in OPTIONS if name not in SWEEPS]
# Overrides that an option requires.
NEEDED = {
    ("data", "folder"): ["data.root=photos"],
    ("data", "table"): ["data.path=labels.csv"],
    ("backbone", "open_clip"): ["backbone.name=RN50", "backbone.tag=openai"],
    ("backbone", "local"): ["backbone.path=model"],
    ("model", "zeroshot"): ["method=zeroshot"],
    ("model", "linear_probe"): ["method=linear_probe"],
}


@pytest.mark.parametrize(("group", "option"), SINGLE)
def test_every_shipped_yaml_composes(group: str, option: str, compose: Compose) -> None:
    config = compose(f"{group}={option}", *NEEDED.get((group, option), []))
    if group in SCHEMAS and option in SCHEMAS[group] and hasattr(getattr(config, group), "name"):
        assert isinstance(getattr(config, group), SCHEMAS[group][option])


@pytest.mark.parametrize("group", [path.name for path in GROUPS])
def test_every_yaml_starts_with_a_description(group: str) -> None:
    for path in (conf_dir() / group).rglob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @")]
        assert lines[0].startswith("# "), f"{path} starts without a comment"


@pytest.mark.parametrize("experiment", [name for group, name in SINGLE if group == "experiment"])
@pytest.mark.parametrize("method", [name for group, name in OPTIONS if group == "method"])
def test_any_method_composes_with_any_experiment(
    method: str, experiment: str, compose: Compose
) -> None:
    alone = compose(f"method={method}")
    words = [f"method={method}", f"experiment={experiment}"]
    for each in (words, words[::-1]):
        both = compose(*each)
        assert both.method == method
        assert (both.model, both.head, both.augmentation, both.loss) == (
            alone.model,
            alone.head,
            alone.augmentation,
            alone.loss,
        )


@pytest.mark.parametrize("name", SWEEPS)
def test_every_shipped_sweep_composes_all_its_jobs(name: str, tmp_path: Path) -> None:
    if name.startswith("search/"):
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs flowertune[sweep]")
    configs: list[Config] = []

    def keep(config: Config) -> int:
        configs.append(config)
        raise UsageError("not now")

    words = [f"experiment={name}", "backbone=tiny", "data=synthetic", f"run.root={tmp_path}"]
    commands_compose.run(words, keep)
    assert len(configs) > 3
    assert len({config.run.name for config in configs}) == len(configs)
    assert {config.backbone.name for config in configs} == {"tiny"}


def test_a_bare_train_is_lora_with_seed_42(compose: Compose) -> None:
    config = compose()
    assert (config.method, config.model.name, config.seed) == ("lora", "lora", 42)
    assert (config.backbone.name, config.backbone.tag) == ("ViT-B-32-quickgelu", "openai")
    assert config.data.name == "flowers102"


WRONG = [
    ("augmentation.alpha=-1", "method=mixup", "augmentation.alpha=-1.0: must be above 0"),
    ("trainer.epochs=two", "", "trainer.epochs=two: must be a whole number"),
    ("trainer.epochs=0", "", "trainer.epochs=0: must be at least 1"),
    ("method=mixupp", "", "method=mixupp: unknown method; available: best, "),
    ("augmentation.alpha=0.2", "", "augmentation.alpha: unknown key; augmentation has"),
    ("model.rnk=4", "", "model.rnk: unknown key; model has"),
    ("+model.extra=4", "", "+model.extra=4: adding keys (+) is not supported"),
    ("+extra=4", "", "+extra=4: adding keys (+) is not supported; remove + to set a key"),
    ("optimizer.lr=nan", "", "optimizer.lr=nan: must be a finite number, above 0"),
    ("optimizer.lr=inf", "", "optimizer.lr=inf: must be a finite number, above 0"),
    ("optimizer.head_lr=0", "", "optimizer.head_lr=0.0: must be above 0"),
    ("trainer.precision=fp8", "", "trainer.precision=fp8: must be one of auto, fp32, bf16, fp16"),
    ("model.name=full", "", "model.name=full: must be lora"),
    ("model.targets=[q,z]", "", "model.targets=[q,z]: must be one of q, k, v, out, mlp"),
    ("model.targets=[]", "", "model.targets=[]: LoRA needs at least one"),
    ("augmentation.scale=[0.5]", "", "augmentation.scale=[0.5]: must be [min,max]"),
    (
        "augmentation.scale=[0.9,0.1]",
        "",
        "augmentation.scale=[0.9,0.1]: must be [min,max] with min <= max",
    ),
    ("trainer.warmup_epochs=99", "", "trainer.warmup_epochs=99: must be at most trainer.epochs=8"),
    (
        "augmentation.mix_off_epochs=9",
        "method=cutmix trainer.epochs=8",
        "augmentation.mix_off_epochs=9: must be at most trainer.epochs=8",
    ),
    ("seed=null", "", "seed=null: must be a whole number, at least 0"),
    ("trainer.adapter_scales=0.8", "", "must be a list of numbers, each at least 0"),
    ("seed=interval(1,2)", "-m", "interval() and the like need hydra/sweeper=optuna"),
    (
        "experiment=sweep/alfa",
        "",
        "experiment=sweep/alfa: unknown experiment; available: quickstart, search/rates,"
        " sweep/alpha, sweep/margin, sweep/prompt_size; did you mean sweep/alpha?",
    ),
    ("trainer.ema=1", "", "trainer.ema=1.0: must be above 0 and below 1"),
    ("data.protocol=all", "", "data.protocol=all: must be one of official, trainval"),
    (
        "data.protocol=trainval",
        "method=best",
        "set probe.weight_decay=NUMBER (or baselines=false), trainer.adapter_scales=[]",
    ),
    (
        "trainer.ema=0.9",
        "method=linear_probe",
        "trainer.ema=0.9: not supported with model=linear_probe",
    ),
    (
        "loss.label_smoothing=0.1",
        "method=linear_probe",
        "loss.label_smoothing=0.1: not supported with model=linear_probe",
    ),
    ("head.standardize=false", "method=linear_probe", "not supported with model=linear_probe"),
    ("head.learn_scale=true", "method=zeroshot", "not supported with model=zeroshot"),
    ("data.protocol=trainval", "", "set probe.weight_decay=NUMBER (or baselines=false)"),
    (
        "trainer.patience=3",
        "data.protocol=trainval baselines=false",
        "data.protocol=trainval: has no val to select the best epoch; set trainer.patience=null",
    ),
    ("probe.weight_decay=0", "", "probe.weight_decay=0.0: must be above 0"),
    ("probe.decay=1", "", "probe.decay: unknown key; probe has batch_size, epochs"),
    ("head=text", "backbone.text=false", "head=text: needs a text encoder"),
    ("model=zeroshot", "", "model=zeroshot: needs head=text, augmentation=none and loss=ce"),
    ("model=linear_probe", "", "model=linear_probe: needs head=linear, augmentation=none and"),
    ("head.from_probe=true", "method=linear_probe", "head.from_probe=true: not supported"),
    ("trainer.adapter_scales=[0.5]", "method=zeroshot", "not supported with model=zeroshot"),
    ("trainer.adapter_scales=[-1]", "", "trainer.adapter_scales=[-1.0]: must be at least 0"),
    ("data=folder", "", "data.root: missing"),
    ("backbone=local", "", "backbone.path: missing"),
    ("seed=[", "", "seed=[: expected key=value; quote the value"),
    ("seed", "", "seed: expected key=value, for example method=mixup"),
    ("method=null", "", "method=null: unknown method; available: best, "),
    ("~model", "", "~model: deleting keys (~) is not supported; set another value"),
    ("~hydra/launcher=", "", "~hydra/launcher=: deleting keys (~) is not supported"),
    ("seed=1,2", "", "seed=1,2: several values; add -m for one run per value"),
    ("experiment=sweep/alpha", "method=lora", "augmentation.alpha: unknown key"),
    ("--resolve", "", "--package, --resolve: only allowed with --cfg"),
    ("--experimental-rerun=x", "", "--experimental-rerun: not supported; --config-path RUN"),
    ("hydra/sweeper=nope", "-m", "hydra/sweeper=nope: unknown hydra/sweeper"),
    ("model.layers=[]", "", "model.layers=[]: LoRA needs at least one layer"),
    (
        "model.depth=banana",
        "model=vpt",
        "model.depth=banana: must be at least 1 or one of shallow,",
    ),
    ("model.depth=0", "model=vpt", "model.depth=0: must be at least 1 or one of shallow, deep"),
    ("model.depth=2.5", "model=vpt", "model.depth=2.5: must be a whole number, at least 1"),
    ("model.depth=deep", "", "model.depth: unknown key; model has"),
    ("model.position=middle", "model=vpt", "model.position=middle: must be one of after_cls, end"),
    ("trainer.eval_batch_size=100000000000000000000", "", "must be at most 2,147,483,647"),
    ("backbone.path=model", "", "backbone.path=model: only used with backbone=local"),
    ("data.root=", "data=folder", "data.root: empty"),
    ("loss.margin=-1", "loss=triplet_ce", "loss.margin=-1: must be above 0 or soft"),
    ("loss.margin=banana", "loss=triplet_ce", "loss.margin=banana: must be above 0 or soft"),
    ("loss.margin=inf", "loss=triplet_ce", "loss.margin=inf: must be a finite number, above 0 or"),
    ("loss.margin=true", "loss=triplet_ce", "loss.margin=true: must be a number, above 0 or soft"),
    ("loss.samples_per_class=1", "loss=triplet_ce", "loss.samples_per_class=1: must be at least 2"),
    (
        "loss.margin=1",
        "",
        "loss.margin: unknown key; loss has class_weights, label_smoothing, logit",
    ),
    ("augmentation=mixup", "loss=triplet_ce", "loss=triplet_ce: needs unmixed images, but"),
    (
        "model=linear_probe",
        "loss=triplet_ce",
        "model=linear_probe: needs head=linear, augmentation=none and",
    ),
    (
        "trainer.batch_size=7",
        "loss=triplet_ce",
        "trainer.batch_size=7: must be at least 8, for 2 classes",
    ),
    (
        "loss.classes_per_batch=9",
        "loss=triplet_ce",
        "trainer.batch_size=16: must be at least 36, for 9",
    ),
    ("epochs=3", "", "epochs: unknown key; did you mean trainer.epochs or probe.epochs?"),
    ("root=photos", "", "root: unknown key; did you mean data.root or run.root?"),
    ("optimizer.epochs=3", "", "did you mean trainer.epochs or probe.epochs?"),
    ("trainer.epoch=1,2", "-m", "trainer.epoch: unknown key; trainer has accumulation"),
    ("trainer.adapter_scales.0=1", "", "set trainer.adapter_scales as a whole"),
    ("probe={epochs:x}", "", "probe.epochs=x: must be a whole number, at least 1"),
    ("nope.x=1", "", "nope: unknown key; the config has augmentation, backbone"),
    ("--nope", "", "unrecognized arguments: --nope"),
    ("mixup", "--method", "--method: unknown option; write method=mixup"),
    ("--method=mixup", "", "--method: unknown option; write method=mixup"),
    ("--batch-size=8", "", "write trainer.batch_size=8 or probe.batch_size=8"),
    ("mixup", "method =", "method: no spaces around =; write method=mixup"),
    ("=mixup", "method", "method: no spaces around =; write method=mixup"),
    ("mixup", "", "mixup: expected key=value; did you mean method=mixup?"),
    ("sweep/alpha", "", "expected key=value; did you mean experiment=sweep/alpha?"),
    ("backbone=ViT-B/32", "", "vit_b32_openai; did you mean vit_b32_openai?"),
    ("backbone=vit-b32", "", "vit_b32_openai; did you mean vit_b32_openai?"),
    ("optimizer.lr=0,01", "", "or quote them as one value; did you mean 0.01?"),
    ("trainer.seed=3", "", "trainer.seed: unknown key; did you mean seed?"),
    ("data.root=/nowhere", "data=folder backbone=tiny", "data.root: /nowhere does not exist"),
]


@pytest.mark.parametrize(("word", "with_word", "message"), WRONG)
def test_wrong_input_is_one_line_with_exit_code_2(
    word: str,
    with_word: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*with_word.split(), word]
    assert cli.main(["train", *words]) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("photos", "photos: expected key=value; did you mean data=folder data.root=photos?"),
        ("data=photos", "table; did you mean data=folder data.root=photos?"),
        ("data=./photos", "table; did you mean data=folder data.root=./photos?"),
        ("data.root=photos", "photos: holds class folders; did you mean data=folder?"),
        ("data.root=split", "split: holds class folders; did you mean data=folder?"),
    ],
)
def test_a_folder_of_images_without_its_keys_suggests_them(
    word: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("photos/rose", "split/train/rose"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.JPG").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", word]) == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


def test_flowers102_may_lie_beside_other_folders(tmp_path: Path, compose: Compose) -> None:
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg" / "image_00001.jpg").touch()
    assert compose(f"data.root={tmp_path}").data.name == "flowers102"


@pytest.mark.parametrize(
    ("typed", "value"), [("1", 1), ("0.3", 0.3), ("2e-1", 0.2), ("soft", "soft")]
)
def test_a_margin_is_a_number_or_soft(typed: str, value: float | str, compose: Compose) -> None:
    assert compose("loss=triplet_ce", f"loss.margin={typed}").loss.margin == value  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("option", [("-m",), ("--multirun", "--config-dir", ".")])
def test_options_may_appear_anywhere(
    place: int, option: tuple[str, ...], tmp_path: Path, finish: Callable[..., int]
) -> None:
    words = [f"run.root={tmp_path}", "seed=1,2"]
    words[place:place] = option
    seeds: list[int] = []
    assert (
        commands_compose.run(words, lambda config: seeds.append(config.seed) or finish(config)) == 0
    )
    assert seeds == [1, 2]


def test_a_bug_is_not_reported_as_a_refusal() -> None:
    def broken(config: Config) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        commands_compose.run([], broken)


def test_config_dir_adds_options(tmp_path: Path, compose: Compose) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - mixup\n\nmethod: mine\naugmentation:\n  alpha: 0.7\n"
    )
    config = compose("--config-dir", str(tmp_path), "method=mine")
    assert config.method == "mine"
    assert config.augmentation.alpha == 0.7  # type: ignore[attr-defined]


def test_the_same_words_give_the_same_run_name_in_any_order(compose: Compose) -> None:
    first = compose("method=mixup", "seed=3", "augmentation.alpha=0.4").run.name
    second = compose("augmentation.alpha=0.4", "method=mixup", "seed=3").run.name
    other = compose("method=mixup", "seed=4", "augmentation.alpha=0.4").run.name
    assert first == second
    assert first != other
    assert first is not None
    assert first.startswith("mixup-seed_3-alpha_0.4-")
    assert compose("method=mixup").run.name == "mixup"
    assert compose("run.name=mine", "seed=3").run.name == "mine"


def test_warnings_are_shown_before_a_run_has_its_log(
    compose: Compose, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest
    compose("experiment=quickstart")  # as Hydra configures logging then
    logging.getLogger("flowertune.data.later").warning("an image is strange")
    assert capsys.readouterr().err == "an image is strange\n"


NAMES = [
    "photos", "my photos", "Nina's Blüten", 'the "best"', "#1", "a=b", "a,b", "{x}", "(x)", "[x]",
    "x{1}", "a:b", "naïve", "nai\u0308ve", "照片", r"C:\Users\My Name\x", r"\\server\share\x",
    "trailing ", " leading", "$HOME", "100%", "a;b", "a&b|c", "!x", "x" * 200, "true", "2024",
    "1e3", "-x", "a\\", "+x", "é'\"`", r"a'b\'c", "choice(1)", "a  b", "~x", "x~", "@x", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("data.root", ("data=folder",)),
        ("run.root", ()),
        ("backbone.path", ("backbone=local",)),
        ("data.group", ("data=folder", "data.root=x")),
    ],
)
def test_paths_and_texts_are_taken_as_typed(
    name: str, key: str, more: tuple[str, ...], compose: Compose
) -> None:
    section, field = key.split(".")
    found = getattr(getattr(compose(*more, f"{key}={name}"), section), field)
    if key in ("data.root", "backbone.path"):
        assert found == str(Path(name).absolute())
    else:
        assert found == name


def test_what_hydra_means_on_purpose_stays(compose: Compose) -> None:
    assert compose("run.root='a b'").run.root == "a b"
    assert compose('run.root="a b"').run.root == "a b"
    assert compose("run.name=null").run.name is not None  # derived
    assert compose("run.root=${method}").run.root == "lora"
    assert compose("seed=3").seed == 3  # not a text
    assert quote_plain(["method=lora,mixup"], sweeps=False) == ["method=lora,mixup"]
    swept = ["data.root=a,b c"]
    assert quote_plain(swept, sweeps=True) == swept  # two folders; without -m one
    assert quote_plain(swept, sweeps=False) == ["data.root='a,b c'"]


@pytest.mark.parametrize("value", ["0.1,0.2}", "Nina's garden", 'the "best" [1]'])
def test_the_hint_to_quote_a_value_works_in_a_shell(value: str) -> None:
    message = unparsable_message(f"trainer.monitor={value}")
    _, _, typed = message.partition("quote the value: ")
    (word,) = shlex.split(typed)
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == value
