"""Load a run's model for export."""

from dataclasses import dataclass
from pathlib import Path

from flowertune.config.schema import Config
from flowertune.data.image import Preprocessing
from flowertune.inference import predictor
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.runs.directory import Run


@dataclass(frozen=True)
class ExportModel:
    """Model in eval mode, float32 on the CPU, with the adapter merged into the classifier's tower.

    That tower is the one of `backbone`, whose text tower is as it was. `class_names` are in the
    order of the logits.
    """

    run: Run
    config: Config
    backbone: Backbone
    classifier: Classifier
    class_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the run, even if its directory was given as "."."""
        return self.run.path.absolute().name

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the model's input."""
        return self.backbone.preprocessing


def load_export_model(path: Path) -> ExportModel:
    """Load the finished run at `path` for export. Raises UsageError as `flowertune.load` does."""
    run, config = predictor.read_run(path)
    backbone = predictor.load_run_backbone(run, config)
    classifier, class_names = predictor.read_classifier(run, config, backbone)
    classifier.merge()
    return ExportModel(run, config, backbone, classifier, class_names)
