"""`flowertune data prepare`: download and decode everything that a training needs."""

from pathlib import Path

from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import bad_file_lines, cache_dataset
from flowertune.data.cache_dir import cache_root
from flowertune.data.factory import list_images
from flowertune.errors import EXIT_DONE, printable
from flowertune.files import bytes_in, format_bytes
from flowertune.models.backbone import export_directory
from flowertune.models.factory import load_backbone
from flowertune.report.console.run import ConsoleReporter


def execute(config: Config, export_backbone: Path | None) -> int:
    """Fill the cache for a training with this config, and print the paths.

    With `export_backbone`, only write the backbone to that folder, to carry to another machine.
    """
    console, cache = ConsoleReporter(), cache_root()
    if export_backbone is not None:
        backbone = load_backbone(config.backbone, config.seed, config.data.resize)
        export_directory(backbone, export_backbone)
        text = backbone.architecture()["text_cfg"].get("hf_tokenizer_name")
        hint = " backbone.text=false (its tokenizer is not in the folder)" if text else ""
        console.say(f"carry it, and use: backbone=local backbone.path={export_backbone}{hint}")
        return EXIT_DONE
    existing = {store.name for store in (cache / "pixels").glob("*")}
    with console.progress():
        dataset = list_images(config.data, cache, console.advance)
        backbone = load_backbone(config.backbone, config.seed, config.data.resize)
        cached = cache_dataset(
            dataset,
            backbone.preprocessing,
            train_form=reads_train_pixels(config.augmentation),
            folder=cache,
            bad_files=config.data.bad_files,
            progress=console.advance,
        )
    for line in bad_file_lines(dataset, cached.bad):
        console.say(f"skipped: {printable(line)}")
    for note in dataset.notes:
        console.say(note)
    console.say(f"{backbone.name} {backbone.tag}; {cached.dataset.protocol}")
    for name, split in cached.splits.items():
        store = cache / "pixels" / split.key
        note = "already in the cache" if split.key in existing else "decoded now"
        console.say(f"{name}: {len(split.split):,} images, {format_bytes(bytes_in(store))}, {note}")
        console.say(f"  {store}")
    return EXIT_DONE
