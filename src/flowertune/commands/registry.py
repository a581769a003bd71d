"""Registry of the commands with their arguments and help texts. Imports nothing heavy."""

from pathlib import Path
from typing import Literal

from flowertune.commands import arguments
from flowertune.commands.arguments import (
    BACKBONE_PATH,
    DEVICE,
    PRECISION,
    RUN,
    Argument,
    as_json,
    whole_number,
)


class Command:
    """One command, with its help and its arguments.

    text: a description, an empty line, and examples as `command  # what it does`. function: where
    its code is (default: `execute` in the module of its name); it returns the exit code or raises
    FlowertuneError. composes: arguments that are not in `arguments` make a config, for one job, a
    sweep (with -m), or a reproduction. The function then gets the config and each argument by name,
    otherwise the parsed arguments.
    """

    def __init__(
        self,
        summary: str,
        text: str,
        *arguments: Argument,
        function: str | None = None,
        composes: Literal["job", "sweep", "reproduction"] | None = None,
    ) -> None:
        self.summary, self.arguments = summary, arguments
        self.description, examples = text.split("\n\n")
        self.examples = [line.split("  # ") for line in examples.splitlines()]
        self.function, self.composes = function, composes


# By name.
COMMANDS = {
    "train": Command(
        "train a model, or several with -m, and test it",
        """\
Train a CLIP image encoder on labeled images and write a run directory with weights, settings,
results and a report. Results are printed next to zero-shot classification and a linear probe of the
same backbone. The default is method=lora on Flowers-102.

flowertune train experiment=quickstart method=mixup  # try it: no network, no images needed
flowertune train method=mixup data=folder data.root=IMAGES  # your own images, in class folders
flowertune train -m method=lora,mixup seed=42,43,44  # a sweep: six runs and a table""",
        composes="sweep",
    ),
    "reproduce": Command(
        "train eight methods with three seeds and compare them",
        """\
Train zeroshot, linear_probe, lora, mixup, triplet, vpt, vpt_deep and best with seeds 42, 43 and 44,
and compare them on val and test: mean, standard deviation and 95% interval, next to the published
numbers of the original notebooks where they apply. method=A,B and seed=1,2 select among them.
Finished runs are kept: run the same command again to continue. The tables are in
runs/reproduce/NAME: reproduce.md, reproduce.csv and reproduce.html.

flowertune reproduce  # Flowers-102; takes hours without a GPU
flowertune reproduce experiment=quickstart  # no network, no images needed
flowertune reproduce method=lora,mixup data=folder data.root=IMAGES  # your own images""",
        function="train:execute",
        composes="reproduction",
    ),
    "evaluate": Command(
        "evaluate a trained run on labeled images",
        """\
Evaluate the model of a run on its test images (val if there is no test split; split=train, val or
all selects others) or on another dataset (data=... and data.KEY=... as in train). Classes are
matched by name; images of unknown classes are counted separately. On the machine that trained the
run, its own images give the same numbers bit for bit. trainer.device, trainer.precision and
trainer.eval_batch_size can be set as well.

flowertune evaluate runs/A  # the run's test images
flowertune evaluate runs/A data=folder data.root=IMAGES  # other images, in class folders
flowertune evaluate runs/A split=all --output predictions.csv  # and write the predictions""",
        Argument("--output FILE", "write label and top 5 predictions per image as CSV", Path),
        as_json("results"),
        BACKBONE_PATH,
        RUN,
        Argument(
            "overrides [split=train|val|test|all] [data=OPTION] [key=value ...]",
            nargs="*",
            default=(),
        ),
    ),
    "predict": Command(
        "classify images with a trained run",
        """\
Print the most likely classes of each image with their probabilities. Give images, folders (searched
recursively), or - to read file names from stdin, one per line. Memory does not grow with the number
of images. Unreadable images are listed on stderr, and the exit code is then 1.

flowertune predict runs/A image.jpg  # one image
flowertune predict runs/A IMAGES --top-k 1 --format csv  # a folder, as CSV
find IMAGES -name '*.jpg' -print0 | flowertune predict runs/A - --null  # names from stdin""",
        Argument(
            "--top-k K", "number of classes per image (default: 3)", whole_number(1), default=3
        ),
        arguments.choice("--format FORMAT", "table json csv", default="table"),
        Argument("--null", "names on stdin end with NUL instead of a newline", action="store_true"),
        DEVICE,
        PRECISION,
        BACKBONE_PATH,
        RUN,
        Argument("paths IMAGE|FOLDER|- ...", nargs="*"),
    ),
    "demo": Command(
        "try a trained run in the browser",
        """\
Serve a local web page that classifies up to 24 images at once. For each it shows the five most
likely classes, the patches that support the first one (Chefer et al., 2021), and the most similar
training images. Uploads are deleted with the page, and nothing is sent anywhere. Needs
pip install 'flowertune[demo]'.

flowertune demo runs/A  # then open the address that it prints
flowertune demo runs/A --port 8000  # from elsewhere: ssh -L 8000:127.0.0.1:8000 HOST
flowertune demo runs/A --photos 0  # faster start, without similar training images""",
        Argument("--port PORT", "port (default: 7860, or a free one)", whole_number(1, 65535)),
        Argument(
            "--host ADDRESS",
            "address to listen on (default: 127.0.0.1, this machine only)",
            arguments.address,
            default="127.0.0.1",
        ),
        Argument(
            "--photos N",
            "training images to search for similar ones (default: 5000)",
            whole_number(0),
            default=5000,
        ),
        DEVICE,
        PRECISION,
        BACKBONE_PATH,
        RUN,
    ),
    "report": Command(
        "write the report of a run, or compare runs",
        """\
Write one HTML file that needs no network. For one run: results, curves, confusions, errors,
calibration and embeddings. For several runs: mean, standard deviation and 95% interval over seeds,
accuracy against size and time, and McNemar's test on the same images. Runs on different images or
backbones get separate tables. Only the run directories are read.

flowertune report runs/A  # writes runs/A/report.html
flowertune report runs/lora-* runs/mixup-*  # compares two methods over their seeds
flowertune report runs/sweeps/NAME  # compares the finished runs of a sweep""",
        Argument(
            "--output FILE",
            "HTML file to write (default: RUN/report.html, for several runs report.html)",
            Path,
        ),
        Argument("runs RUN", parse=Path, nargs="+"),
    ),
    "export": Command(
        "export a trained model (open_clip, PEFT, ONNX, torch.export)",
        """\
Write a folder with the model, its labels, its preprocessing and a model card. Before it is kept,
the export is loaded by the other library and compared with the run on its val images. VPT can be
exported to onnx and torch, LoRA and DoRA to all four formats, other methods to all but peft. onnx
and peft need pip install 'flowertune[export]'.

flowertune export runs/A --format open_clip --output A  # LoRA merged into the weights
flowertune export runs/A --format onnx --output A.onnx  # for ONNX Runtime
flowertune export runs/A --format peft --output A.peft  # the LoRA alone, for transformers""",
        arguments.choice("--format FORMAT", "open_clip peft onnx torch", required=True),
        Argument("--output DIR", "folder to create", Path, required=True),
        Argument(
            "--push-to-hub REPO", "also upload it to the Hugging Face Hub (a new REPO is private)"
        ),
        BACKBONE_PATH,
        RUN,
    ),
    "bench": Command(
        "measure training speed and memory on this machine",
        """\
Time the parts of a training with the given config: the training step alone and with its data,
validation, cache building and start-up. Also measure peak memory, floating-point operations, and
the step's rate relative to a large matrix product. No run directory is written. Random weights take
as long as real ones.

flowertune bench experiment=quickstart method=mixup  # no network, no images needed
flowertune bench data=synthetic backbone.weights=random  # ViT-B/32 without a download
flowertune bench --json data=folder data.root=IMAGES  # machine-readable""",
        as_json("measurements"),
        composes="job",
    ),
    "data prepare": Command(
        "download and decode everything needed for training",
        """\
Do all the work that precedes a training with the same arguments: download or generate missing
images, download weights, and decode all images into the cache. A later train with these arguments
starts at once and needs no network.

flowertune data prepare  # Flowers-102 and ViT-B/32
flowertune data prepare data=folder data.root=IMAGES  # your own images
flowertune data prepare experiment=quickstart  # no network, no images needed""",
        Argument(
            "--export-backbone DIR", "only write the backbone to a folder, to carry elsewhere", Path
        ),
        composes="job",
    ),
    "data check": Command(
        "find problems in the images",
        """\
Read all images and report duplicates across classes, across splits and within a split (also
resized, recompressed, slightly cropped or mirrored ones), unreadable images, small and unbalanced
classes, and wrong file extensions. Needs no weights and changes nothing. The exit code is 1 if
anything was found.

flowertune data check data=folder data.root=IMAGES  # your own images
flowertune data check --json data=folder data.root=IMAGES  # machine-readable
flowertune data check  # Flowers-102""",
        as_json("findings"),
        composes="job",
    ),
    "data cache list": Command(
        "list cached data with size and last use",
        """\
List decoded images, frozen features, synthetic flowers and downloads in the cache folder
(FLOWERTUNE_CACHE selects another one), least recently used first. Weights are in the cache of
Hugging Face and not listed.

flowertune data cache list  # all entries and the total""",
        function="data_cache:show",
    ),
    "data cache clear": Command(
        "delete cached data",
        """\
Delete what `flowertune data cache list` lists, after asking. It is created or downloaded again when
needed. Entries that another process is writing, and files that are not from flowertune, are kept.

flowertune data cache clear  # everything, after asking
flowertune data cache clear --older-than 30  # entries not used for 30 days
flowertune data cache clear --older-than 30 --yes  # without asking, for scripts""",
        Argument("--older-than DAYS", "only entries not used for DAYS days", arguments.days),
        Argument("--yes", "do not ask", action="store_true"),
        function="data_cache:clear",
    ),
}

# Common first words of commands.
FAMILIES = {
    "data": "Prepare and check the images of a training, and manage the cache.",
    "data cache": "Manage cached data: decoded images, features, synthetic flowers, downloads.",
}


def subcommands(family: str) -> list[str]:
    """List the subcommands of a family."""
    depth = len(family.split())
    names = (name for name in COMMANDS if name.startswith(family))
    return list(dict.fromkeys(name.split()[depth] for name in names))
