"""Registry of the commands with their arguments and help texts. Imports nothing heavy."""

from pathlib import Path
from typing import Literal

from flowertune.commands import arguments
from flowertune.commands.arguments import DEVICE, PRECISION, RUN, Argument, as_json, whole_number


class Command:
    """One command: what carries it out, its help and its arguments.

    `text`: a description, an empty line, and examples with what each means. `function`: what
    carries it out, else `execute` of the module of its name; returns the exit code, or raises
    FlowertuneError. `composes`: whether the words that are no `arguments` make a config, and of
    what: one job, also a sweep by -m, or a reproduction, which makes several jobs by itself. The
    function then takes that config and each argument by name, else the parsed arguments.
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


# By the words that name them.
COMMANDS = {
    "train": Command(
        "train one model, or with -m several, and test it",
        """\
Trains a CLIP image encoder on photos sorted into classes and leaves a run directory with
the weights, the settings and the results. Zero-shot classification and a linear probe of
the same backbone stand beside the result. The default is method=lora on Flowers-102.

flowertune train experiment=quickstart method=mixup  # no network, no photos needed
flowertune train method=mixup data=folder data.root=PHOTOS  # your own photos
flowertune train -m method=mixup augmentation.alpha=0.1,0.2,0.4 seed=42,43  # six runs""",
        composes="sweep",
    ),
    "reproduce": Command(
        "train all methods with three seeds and compare them",
        """\
Trains zeroshot, linear_probe, lora, mixup, triplet, vpt, vpt_deep and best with seeds 42, 43, 44
on Flowers-102 with ViT-B/32, or on what the words say, and compares them: mean, deviation and 95 %
interval on val and test, and beside them the numbers of the notebooks that flowertune grew out of.
Finished runs are kept, so it can be stopped and started. method=A,B and seed=1,2 choose among
them. The tables lie in runs/reproduce/<name>/: reproduce.md, reproduce.csv, reproduce.html.

flowertune reproduce  # Flowers-102; hours without a GPU
flowertune reproduce experiment=quickstart  # no network, no photos needed
flowertune reproduce method=lora,mixup data=folder data.root=PHOTOS  # your photos""",
        function="train:execute",  # what is reproduced are trainings
        composes="reproduction",
    ),
    "evaluate": Command(
        "measure a finished run on any photos with classes",
        """\
Measures the model of a run directory on its own test photos (split=train, val or all: on those), or
on others: data=... and data.KEY=... are as `flowertune train` has them. Of another folder all class
folders count, however few photos they hold. Classes are matched by name; photos of classes that the
run does not know are counted apart. On the machine that trained, its own photos give its own
numbers to the bit. trainer.device, precision and eval_batch_size may be set, too.

flowertune evaluate runs/A  # its own test photos, else val
flowertune evaluate runs/A data=folder data.root=PHOTOS  # class folders of yours
flowertune evaluate runs/A split=all --output answers.csv  # and what each was""",
        Argument("--output FILE", "label and five likeliest classes of each photo, as CSV", Path),
        as_json("numbers"),
        RUN,
        Argument(
            "overrides [split=train|val|test|all] [data=OPTION] [key=value ...]",
            nargs="*",
            default=(),
        ),
    ),
    "predict": Command(
        "say what photos are, by a finished run",
        """\
Takes a run directory and photos, folders (with all that lies below them), or - for names on stdin,
a line each, and prints the likeliest classes of each photo with their probabilities. Photos are
read as they are needed, however many there are. A file that gives no picture is named on stderr
and left out, and the exit code is then 1. stdout has the answers alone.

flowertune predict runs/A photo.jpg  # one photo
flowertune predict runs/A PHOTOS --top-k 1 --format csv  # a folder, for a table
flowertune predict runs/A PHOTOS --format json  # an object a line, for a program
find PHOTOS -name '*.jpg' -print0 | flowertune predict runs/A - --null  # names""",
        Argument("--top-k K", "how many classes; else 3", whole_number(1), default=3),
        arguments.choice("--format FORMAT", "table json csv", default="table"),
        Argument("--null", "names on stdin end with NUL, not with a line", action="store_true"),
        DEVICE,
        PRECISION,
        RUN,
        Argument("paths PHOTO|FOLDER|-", nargs="+"),
    ),
    "demo": Command(
        "open a page to try a finished run on",
        """\
Serves a page on this machine where photos can be dropped, pasted or chosen, 24 at once. For
each it shows the five likeliest classes, which patches of the photo speak for the first (after
Chefer et al., 2021), and the training photos that it is most like. Uploads are kept in a temporary
folder that goes with the page; nothing is sent anywhere. Needs pip install 'flowertune[demo]'.

flowertune demo runs/A  # then open the address that it prints
flowertune demo runs/A --port 8000  # and on yours: ssh -L 8000:127.0.0.1:8000 HOST
flowertune demo runs/A --photos 0  # without training photos, quicker to start""",
        Argument("--port PORT", "where; else 7860, or one that is free", whole_number(1, 65535)),
        Argument(
            "--host ADDRESS",
            "who may reach it; else 127.0.0.1, this machine alone",
            arguments.address,
            default="127.0.0.1",
        ),
        Argument(
            "--photos N",
            "how many training photos to compare with; else 5000",
            whole_number(0),
            default=5000,
        ),
        DEVICE,
        PRECISION,
        RUN,
    ),
    "report": Command(
        "show a finished run as a page, or compare several",
        """\
Makes of a finished run one HTML file that needs no network: result, curves, what it takes for what,
with the photos, classes, calibration, embeddings. Several runs it puts beside each other: mean,
deviation and 95 % interval over seeds, accuracy against trained parameters and against time,
McNemar's test on the same photos, and of a sweep its curve or map. Runs on different photos or
backbones are never in one table. Only run directories are read; the photos need not be there.

flowertune report runs/A  # runs/A/report.html, as train makes it
flowertune report runs/lora-* runs/mixup-*  # two methods, with all their seeds
flowertune report runs/sweeps/NAME  # what a sweep has finished
flowertune report runs/A runs/B --output ab.html  # somewhere else""",
        Argument(
            "--output FILE",
            "where the page goes; else RUN/report.html, of several report.html",
            Path,
        ),
        Argument("runs RUN", parse=Path, nargs="+"),
    ),
    "export": Command(
        "make a finished run's model ready for other programs",
        """\
Writes the model of a run into a new folder, with labels, preprocessing and a model card, and then
compares what the other program makes of it with the run's own model, on the run's val photos where
they still are. What differs is not kept. VPT goes into onnx and torch, LoRA into all four, what
else is trained into all but peft. onnx and peft take pip install 'flowertune[export]'.

flowertune export runs/A --format open_clip --output A  # LoRA merged, head beside
flowertune export runs/A --format onnx --output A.onnx  # for ONNX Runtime
flowertune export runs/A --format torch --output A.pt2  # a torch.export program
flowertune export runs/A --format peft --output A.peft  # the LoRA, transformers'""",
        arguments.choice("--format FORMAT", "open_clip peft onnx torch", required=True),
        Argument("--output DIR", "the folder to make", Path, required=True),
        Argument(
            "--push-to-hub REPO", "put it on the Hugging Face Hub, too, privately where it is new"
        ),
        RUN,
    ),
    "bench": Command(
        "time the steps of a training on this machine",
        """\
Times what a training is made of, for the same words as `flowertune train`: the training step
alone and with its data, validation, cache building, and the start; with its peak memory, its
floating-point operations, and its share of what a large matrix product reaches here. Trains on
the photos of `data`, and leaves no run directory. Random weights take as long as real ones.

flowertune bench experiment=quickstart method=mixup  # no network, no photos needed
flowertune bench data=synthetic backbone.weights=random trainer.batch_size=64  # \
ViT-B/32 without its weights
flowertune bench --json data=folder data.root=PHOTOS  # for a program to read""",
        as_json("numbers"),
        composes="job",
    ),
    "data prepare": Command(
        "fetch and decode the photos and weights of a training beforehand",
        """\
Takes the words that `flowertune train` takes, and does what comes before the training: photos are
downloaded or drawn where they are missing, weights are fetched, and every photo is decoded into
the cache. The same words behind `flowertune train` then start at once and need no network.

flowertune data prepare  # Flowers-102 and ViT-B/32, as train has them
flowertune data prepare data=folder data.root=PHOTOS  # your own photos
flowertune data prepare experiment=quickstart  # no network, no photos needed""",
        composes="job",
    ),
    "data check": Command(
        "find what is wrong with the photos",
        """\
Reads every photo of `data` and reports: the same picture in two classes, in two splits or more
than once in a split, also where it was resized, recompressed, cropped a little or mirrored; files
that give no picture; classes with few photos, or of very different sizes; endings that name
another format. Needs no weights and changes nothing. Exit code 0: nothing found, 1: something.

flowertune data check data=folder data.root=PHOTOS  # your own photos
flowertune data check --json data=folder data.root=PHOTOS  # for a program to read
flowertune data check  # Flowers-102""",
        as_json("findings"),
        composes="job",
    ),
    "data cache list": Command(
        "list what is kept between runs, with size and last use",
        """\
Lists decoded photos, frozen features, drawn flowers and downloads in the cache folder
(FLOWERTUNE_CACHE names another one), those longest unused first. The weights that open_clip
fetches are in Hugging Face's own cache, and not listed.

flowertune data cache list  # everything, and the total""",
        function="data_cache:show",
    ),
    "data cache clear": Command(
        "remove what is kept between runs",
        """\
Removes what `flowertune data cache list` lists, after asking. It is made or fetched again when it
is wanted. What another process is building is left, and so is what flowertune did not make.

flowertune data cache clear  # everything, if you say yes
flowertune data cache clear --older-than 30  # what no run used for 30 days
flowertune data cache clear --older-than 30 --yes  # without asking, for scripts""",
        Argument("--older-than DAYS", "only what was not used for so many days", arguments.days),
        Argument("--yes", "without asking", action="store_true"),
        function="data_cache:clear",
    ),
}

# What several commands have in common, by the words that their names begin with.
FAMILIES = {
    "data": "The photos of a training, and what is kept of them between runs.",
    "data cache": "What is kept between runs: decoded photos, features, drawn flowers, downloads.",
}


def subcommands(family: str) -> list[str]:
    """List the words that may follow a family's name, each once."""
    depth = len(family.split())
    names = (name for name in COMMANDS if name.startswith(family))
    return list(dict.fromkeys(name.split()[depth] for name in names))
