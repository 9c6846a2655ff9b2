"""The state of a study's runs as a table, and the results of the finished ones as files.

Everything is read from the folders of the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reco.config import ConfigError
from reco.data import open_dataset
from reco.data.fingerprint import fingerprint, fingerprints
from reco.data.splits import Split, make_split
from reco.optional_packages import import_extra
from reco.pictures import plots
from reco.runs.checkpoint import CheckpointError, load_checkpoint
from reco.runs.results import (
    ClassIoU,
    Images,
    Point,
    Result,
    last_iteration,
    other_validations,
    read_classes,
    read_points,
    read_results,
)
from reco.studies.study import Study, StudyRun
from reco.studies.tables import pairs_table, results_table
from reco.training.resume import check_training_images
from reco.writing import write_table, write_text_whole, write_whole

_TO_EVALUATE = "to evaluate"


@dataclass
class Progress:
    """The runs of a study and their state."""

    study: Study
    runs: Sequence[StudyRun]
    running: set[Path] = field(default_factory=set)  # folders of runs
    failed: dict[Path, str] = field(default_factory=dict)  # folder -> error
    finished: dict[Path, list[Result]] = field(default_factory=dict)
    # By data set, the fingerprints of the evaluated images; None: the data are not on this machine.
    _images: dict[str, Images | None] = field(default_factory=dict)
    # The same of the training images: the split and the fingerprints of its labelled images.
    _training_images: dict[str, tuple[Split, dict[str, str]] | None] = field(default_factory=dict)
    # What the pictures show that were written last.
    _pictured: tuple[list[Result], list[Point]] | None = None

    def __post_init__(self) -> None:
        import_extra("scipy.stats", "making the tables of a study")  # fail now, not after the runs
        for run in self.runs:
            self.refresh(run)

    def refresh(self, run: StudyRun) -> bool:
        """Read the results of a run that no process writes to; returns whether it is finished.

        One that was trained on other images or labels than those of now has failed.
        """
        rows = read_results(run.folder, *self._criteria(run), **self._identity(run))
        if not rows:
            return False
        last, now = run.folder / "last.pt", self._images_of_training(run)
        if now is not None and last.is_file():
            try:
                check_training_images(run.folder, load_checkpoint(last, lazily=True), *now)
            except (ConfigError, CheckpointError) as error:
                self.failed[run.folder] = str(error)
                return False
        self.finished[run.folder] = rows
        return True

    def to_start(self) -> list[StudyRun]:
        """The runs that are neither at their end nor failed."""
        return [run for run in self.unfinished() if run.folder not in self.failed]

    def unfinished(self) -> list[StudyRun]:
        """The runs that are not at their end, running and failed ones included."""
        return [run for run in self.runs if run.folder not in self.finished]

    def iterations(self) -> int:
        """Iterations done, over all runs."""
        return sum(last_iteration(run.folder) for run in self.runs)

    def table(self) -> str:
        """A row for each method and budget, a column for each seed, and a summary."""
        states = {(run.method, run.budget, run.seed): self._state(run) for run in self.runs}
        titles = [f"seed {seed}" for seed in self.study.seeds]
        names = {
            (method, budget): f"{method}  {budget}".rstrip()
            for budget in self.study.budgets
            for method in self.study.methods
        }
        first = max(map(len, names.values()))
        rows = [f"{'':<{first}}  " + "".join(f"{title:>16}" for title in titles)]
        for (method, budget), name in names.items():
            row = "".join(f"{states[method, budget, seed]:>16}" for seed in self.study.seeds)
            rows.append(f"{name:<{first}}  {row}")
        return "\n".join(["", *rows, self.summary()])

    def _state(self, run: StudyRun) -> str:
        if run.folder in self.finished:
            return f"{self.finished[run.folder][0].miou:.1f} %"
        for state, folders in (("failed", self.failed), ("running", self.running)):
            if run.folder in folders:
                return state
        done = last_iteration(run.folder)
        if done >= run.config.train.iterations:
            return _TO_EVALUATE
        return f"stopped at {done:,}" if done else "to do"

    def summary(self) -> str:
        """How many runs are finished, running and left, and which failed and why."""
        left = self.unfinished()
        waiting = len(left) - len(self.running) - len(self.failed)
        trained = sum(self._state(run) == _TO_EVALUATE for run in left)
        counts = {
            "running": len(self.running),
            "to do": waiting - trained,
            "trained, but without figures on the images of now: the study evaluates them": trained,
            "failed": len(self.failed),
        }
        parts = [f"{number} {state}" for state, number in counts.items() if number]
        done = len(self.runs) - len(left)
        lines = [", ".join([f"{done} of {len(self.runs)} runs finished", *parts])]
        for run in left:
            if run.folder in self.failed:
                lines.append(f"- {run.title} failed: {self.failed[run.folder]}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write tables, CSV files and, with matplotlib, pictures of what is finished."""
        rows, classes, points, notes = [], [], [], list[str]()
        for run in self.runs:
            if run.folder in self.finished:
                rows += self.finished[run.folder]
                classes += read_classes(run.folder, *self._criteria(run), **self._identity(run))
                images = self.images(run)
                points += read_points(run.folder, images, **self._identity(run))
                left_out = 0 if images is None else other_validations(run.folder, images)
                if left_out:
                    notes.append(
                        f"- {run.title}: {left_out} validations on other images than those of "
                        f"{run.config.dataset.root or run.config.dataset.name} now are left out"
                    )
        if any(self.images(run) is None for run in self.runs if run.folder in self.finished):
            notes.append(
                "- The data are not here: it was not checked that the figures are of their images."
            )
        folder = self.study.results_dir
        write_table(folder / "results.csv", Result._fields, rows)
        write_table(folder / "classes.csv", ClassIoU._fields, classes)
        write_table(folder / "curves.csv", Point._fields, points)
        baseline = self.study.baseline
        text = f"# {self.study.name}\n\n{results_table(rows, baseline)}\n"
        if pairs := pairs_table(rows, baseline):
            text += f"\n{pairs}\n"
        if rows and find_spec("matplotlib") is not None:
            if self._pictured != (rows, points):
                for name, picture in (
                    ("results", plots.study_results(rows)),
                    ("curves", plots.study_curves(points)),
                ):
                    write_whole(folder / f"{name}.png", partial(picture.savefig, dpi=150))
                self._pictured = rows, points
            text += "\n![mIoU of each run](results.png)\n\n![over the iterations](curves.png)\n"
        write_text_whole(folder / "results.md", "\n".join([text, self.summary(), *notes, ""]))

    def images(self, run: StudyRun) -> Images | None:
        """Fingerprints of the images that a run is evaluated on, by split, as they are now.

        ``None`` where they are not on this machine.
        """
        data = replace(
            run.config.dataset,
            labelled_images="all",
            labelled_ids=None,
            partial_labels=None,
            crop_size=(0, 0),
        )
        key = repr(data)
        if key not in self._images:
            try:
                reader = open_dataset(data)
                splits = {data.eval_split, self.study.test_split or data.eval_split}
                self._images[key] = {s: fingerprint(reader, reader.ids(s)) for s in splits}
            except (OSError, ValueError):
                self._images[key] = None
        return self._images[key]

    def _images_of_training(self, run: StudyRun) -> tuple[Split, dict[str, str]] | None:
        """The split of a run and fingerprints of its labelled images, as they are now.

        ``None`` where they are not on this machine.
        """
        data = run.config.dataset
        key = repr(data)
        if key not in self._training_images:
            try:
                reader = open_dataset(data)
                split = make_split(reader, data)
                self._training_images[key] = split, fingerprints(reader, split.labelled)
            except (OSError, ValueError):
                self._training_images[key] = None
        return self._training_images[key]

    def _criteria(self, run: StudyRun) -> tuple[int, str | None, Images | None]:
        return run.config.train.iterations, self.study.test_split, self.images(run)

    def _identity(self, run: StudyRun) -> dict[str, Any]:
        """The columns of a row of results that identify its run."""
        folder = run.folder.relative_to(self.study.output_dir).as_posix()
        return {"method": run.method, "budget": run.budget, "seed": run.seed, "run": folder}
