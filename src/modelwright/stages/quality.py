"""quality: good and ordinary text -> a model that scores text, and a page that shows how well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from modelwright.base.config import validate
from modelwright.base.errors import UserError
from modelwright.base.files import write_json, write_text
from modelwright.base.progress import View
from modelwright.data.quality.model import Config, QualityModel
from modelwright.data.quality.roc import calibration, roc
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.read import read
from modelwright.data.readers.source import Source
from modelwright.evaluation.page import template
from modelwright.evaluation.plots import Line, histogram, line_chart

MODEL_FILE, REPORT_FILE, ABOUT_FILE = "quality.safetensors", "report.html", "about.json"
AXES = ("share of ordinary text kept", "share of good text kept")
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, slots=True)
class Learned:
    """A quality model and where it lies."""

    model: QualityModel
    folder: Path

    @property
    def summary(self) -> str:
        """What it came to, in a few lines."""
        about = self.model.about
        telling = ", ".join(f"'{gram}'" for gram, _ in about.telling_good[:8])
        against = ", ".join(f"'{gram}'" for gram, _ in about.telling_ordinary[:8])
        return (
            f"AUC on held-out text: {about.auc:.4f} [{about.auc_low:.4f}, {about.auc_high:.4f}] "
            f"({about.good_documents:,} good, {about.ordinary_documents:,} ordinary documents)\n"
            f"tells good text:     {telling}\n"
            f"tells ordinary text: {against}\n"
            f"use it: data.filters=[{{name: quality, model: {self.folder / MODEL_FILE}, keep_share: 0.5}}]"
        )


def learn(good: Sequence[str], ordinary: Sequence[str], folder: Path, view: View, **settings: int) -> Learned:
    """Learn from the texts of two lists of files, folders or globs; leave model, page and figures.
    `settings` are those of `QualityModel.learn`."""
    config = validate(Config, settings, "quality")
    with view.task("texts read", 2 * config.max_documents) as bar:

        def texts(paths: Sequence[str]) -> Iterator[str]:
            for path in paths:
                for document in read(Source(path=path, name=path), Faults()):
                    bar.advance()
                    yield document.text

        model = QualityModel.learn(texts(good), texts(ordinary), config)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file, expected a folder")
    model.save(folder / MODEL_FILE)
    write_json(folder / ABOUT_FILE, model.about.model_dump(mode="json"))
    write_text(folder / REPORT_FILE, page(model, good, ordinary))
    return Learned(model, folder)


def page(model: QualityModel, good: Sequence[str], ordinary: Sequence[str]) -> str:
    """The page: ROC, scores, calibration, cuts, and the n-grams that decide."""
    about = model.about
    sides = [np.array(scores) for scores in (about.held_out_good, about.held_out_ordinary)]
    curve = Line(name="this model", points=[(x, y) for _, x, y in roc(*sides)], dots=False)
    bins = np.histogram(np.concatenate(sides), bins=10, range=(0, 1))[0]
    columns = [(f"{low / 10:.1f}", float(count)) for low, count in enumerate(bins)]
    cuts = [
        {
            "share": share,
            "score": model.threshold(share),
            "good": float(np.mean(sides[0] >= model.threshold(share))),
        }
        for share in SHARES
    ]
    shown = {
        "about": about,
        "good": ", ".join(good),
        "ordinary": ", ".join(ordinary),
        "roc": Markup(
            line_chart([curve], "share of ordinary text kept", "share of good text kept", "ROC", linear=True)
        ),
        "scores": Markup(histogram(columns, "score", "held-out texts", "Scores of held-out text")),
        "calibration": calibration(sides[0], sides[1]),
        "cuts": cuts,
        "telling": list(zip(about.telling_good, about.telling_ordinary, strict=False)),
    }
    return template("modelwright.stages", "quality.html.jinja").render(shown)
