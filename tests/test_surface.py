"""Every word of the command line: config keys, options of groups, commands and their flags.

People's scripts and config files rest on these. Who adds or removes one writes it down here.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import pytest
from hydra._internal.utils import get_args_parser

from flowertune.commands.arguments import make_parser
from flowertune.commands.registry import COMMANDS
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.schema import Config
from flowertune.export import formats as export
from flowertune.report.console import predictions

# By the group, or by the option of it that has them.
KEYS = {
    "": (
        "method seed baselines backbone model head augmentation loss optimizer trainer data "
        "probe logger run"
    ),
    "backbone=open_clip": "source name tag weights path text",
    "model=lora": "name rank alpha rank_stabilized dropout targets layers",
    "model=vpt": "name num_prompts depth shared dropout init position before_ln_pre",
    "model=dora": "name rank alpha rank_stabilized dropout targets layers",
    "model=layernorm": "name",
    "model=bitfit": "name",
    "model=full": "name",
    "model=zeroshot": "name",
    "model=linear_probe": "name",
    "head=linear": "name standardize from_probe",
    "head=cosine": "name scale learn_scale",
    "head=text": "name learn_scale",
    "augmentation=none": "name",
    "augmentation=basic": "name scale ratio interpolation flip brightness contrast saturation",
    "augmentation=mixup": (
        "name scale ratio interpolation flip brightness contrast saturation mix_off_epochs alpha"
    ),
    "augmentation=cutmix": (
        "name scale ratio interpolation flip brightness contrast saturation mix_off_epochs alpha"
    ),
    "loss=ce": "name label_smoothing class_weights logit_adjustment",
    "loss=focal": "name label_smoothing class_weights logit_adjustment gamma",
    "loss=triplet_ce": (
        "name label_smoothing class_weights logit_adjustment weight margin distance normalize "
        "reduction samples_per_class classes_per_batch"
    ),
    "optimizer=adamw": "name lr head_lr weight_decay head_weight_decay beta1 beta2 eps",
    "trainer=default": (
        "epochs batch_size accumulation eval_batch_size device precision compile deterministic "
        "warmup_epochs final_lr clip_norm ema monitor patience min_delta checkpoint_minutes "
        "adapter_scales"
    ),
    "data=folder": (
        "name protocol seed shots balanced residency resize bad_files templates min_images names "
        "root group"
    ),
    "data=table": (
        "name protocol seed shots balanced residency resize bad_files templates min_images names "
        "path root image_column label_column split_column group"
    ),
    "data=flowers102": (
        "name protocol seed shots balanced residency resize bad_files templates root url"
    ),
    "data=synthetic": (
        "name protocol seed shots balanced residency resize bad_files templates train_per_class "
        "val_per_class test_per_class"
    ),
    "probe": "solver weight_decay epochs batch_size lr",
    "logger=none": "name",
    "logger=tensorboard": "name",
    "logger=wandb": "name project entity mode group",
    "logger=mlflow": "name uri experiment group",
    "run": "root name resume console report",
}

# By the group: what follows its "=".
OPTIONS = {
    "augmentation": "basic cutmix mixup none",
    "backbone": "local open_clip tiny vit_b16_openai vit_b32_laion2b vit_b32_openai",
    "data": "flowers102 folder synthetic table",
    "experiment": "quickstart search/rates sweep/alpha sweep/margin sweep/prompt_size",
    "head": "cosine linear text",
    "logger": "mlflow none tensorboard wandb",
    "loss": "ce focal triplet_ce",
    "method": (
        "best bitfit cutmix dora full layernorm linear_probe lora mixup triplet vpt vpt_deep "
        "vpt_shallow zeroshot"
    ),
    "model": "bitfit dora full layernorm linear_probe lora vpt zeroshot",
    "optimizer": "adamw",
    "trainer": "default",
}

# Of every command that composes a config, for it is Hydra that parses these.
HYDRA = (
    "--cfg=job|hydra|all -c=job|hydra|all --config-dir -cd --config-name -cn --config-path -cp "
    "--experimental-rerun --help -h --hydra-help --info=INFO -i=INFO --multirun -m --package -p "
    "--resolve --run -r --shell-completion -sc --version"
).replace("INFO", "all|config|defaults|defaults-tree|plugins|searchpath")

COMPUTE = "--device=auto|cpu|cuda|mps --precision=auto|fp32|bf16|fp16"

# By the command: the flags it takes, with the words that may follow where these are a choice.
FLAGS = {
    "train": HYDRA,
    "reproduce": HYDRA,
    "evaluate": "--output --json --backbone-path",
    "predict": f"--top-k --format=table|json|csv --null --backbone-path {COMPUTE}",
    "demo": f"--port --host --photos --backbone-path {COMPUTE}",
    "report": "--output",
    "export": "--format=open_clip|peft|onnx|torch --output --push-to-hub --backbone-path",
    "bench": f"--json {HYDRA}",
    "data prepare": f"--export-backbone {HYDRA}",
    "data check": f"--json {HYDRA}",
    "data cache list": "",
    "data cache clear": "--older-than --yes",
}


def written(table: Mapping[str, str], mark: str) -> set[str]:
    """A line for each word: its place and itself, with the mark between them."""
    return {f"{place}{mark}{word}" for place, words in table.items() for word in words.split()}


def names(schema: type) -> str:
    return " ".join(declared.name for declared in fields(schema))


def schemas() -> Iterator[tuple[str, type]]:
    """The schema of what is in no group, of each group, and of each option of a group."""
    yield "", Config
    for declared in fields(Config):
        if declared.name in SCHEMAS:
            for option, schema in SCHEMAS[declared.name].items():
                yield f"{declared.name}={option}", schema
        elif is_dataclass(declared.type):
            assert isinstance(declared.type, type)
            yield declared.name, declared.type


def test_the_config_has_these_keys() -> None:
    assert written({place: names(schema) for place, schema in schemas()}, ": ") == written(
        KEYS, ": "
    )
    assert {place.partition("=")[0] for place in KEYS} >= SCHEMAS.keys()


def test_the_groups_have_these_options() -> None:
    found = {
        folder.name: " ".join(
            path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
        )
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    assert written(found, "=") == written(OPTIONS, "=")


def test_there_are_these_commands() -> None:
    assert set(COMMANDS) == set(FLAGS)


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {
        f"{flag}={'|'.join(action.choices)}" if action.choices else flag
        for action in parser._actions
        for flag in action.option_strings
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_these_flags(command: str) -> None:
    taken = flags_of(make_parser(COMMANDS[command].arguments))
    if COMMANDS[command].composes:  # what it does not know it leaves to Hydra
        taken |= flags_of(get_args_parser())
    assert taken == set(FLAGS[command].split())


def test_the_choices_of_a_flag_are_what_there_is() -> None:
    """The registry names them itself, as it imports nothing heavy."""
    for command, known in (("export", export.FORMATS), ("predict", predictions.FORMATS)):
        (choices,) = (
            each.settings["choices"]
            for each in COMMANDS[command].arguments
            if each.name == "--format"
        )
        assert set(choices) == set(known)
