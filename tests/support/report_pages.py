"""Studies whose results are made up, and their HTML reports taken apart."""

import dataclasses
import json
from html.parser import HTMLParser

from flatmin.study import config, files, plan
from flatmin.study.config import Study
from flatmin.study.report import write
from flatmin.study.training import record

BENIGN = ("sgd", "sam", "pugd")
ENVIRONMENT = {
    "flatmin": "0.1.0",
    "commit": "0123abc-dirty",
    "torch": "2",
    "processor": "a <b>fast</b> one",
    "date": "d",
}


def make(out, names=BENIGN, tuned=True):
    """A study of 3 contenders, 2 conditions and 3 seeds: one run diverged, one never ran."""
    out.mkdir(parents=True)
    arms = ("default", "tuned") if tuned else ("default",)
    search = {"tune": 2, "tune_per_condition": False, "fix": ("wd",)} if tuned else {}
    study = Study(methods=names, arms=arms, noise=(0.0, 0.4), seeds=3, epochs=4, **search)
    config.save(study, out / "study.toml")
    files.write_json(out / "env.json", {"command": f"flatmin compare --methods {' '.join(names)}", **ENVIRONMENT})
    settings = {name: {"lr": 0.1} for name in names}
    for i, (folder, run) in enumerate(
        plan.runs(study, dict.fromkeys(arms, dict.fromkeys(study.noise, settings))).items()
    ):
        if folder == config.run_folder("default", 0.4, names[1], 2):
            continue
        diverged = 2.0 if folder == config.run_folder("default", 0.4, names[2], 1) else None
        (out / folder).mkdir(parents=True)
        config.save(run, out / folder / "config.toml")
        accuracies = [0.9 + 0.001 * i + 0.01 * epoch for epoch in range(4)] if diverged is None else [0.3, 0.1]
        lines = [
            {"epoch": epoch, "gradient_evaluations": 16 * epoch, "validation_accuracy": accuracy, "seconds": epoch / 9}
            for epoch, accuracy in enumerate(accuracies, start=1)
        ]
        (out / folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        last, gradients = accuracies[-1], lines[-1]["gradient_evaluations"]
        result = record.Result(
            last - 0.01, last, gradients, gradients, 1 + 0.1 * i, diverged, f"{run.contender}()", 1234, ENVIRONMENT
        )
        result = dataclasses.replace(
            result, others={"train_accuracy": 0.625, "memorised": 0.125 if run.noise else None}
        )
        files.write_json(out / folder / "result.json", result.as_json())
    if tuned:
        trials = [
            {"trial": 0, "settings": {"lr": 0.1}, "score": 0.91234, "diverged": 0},
            {"trial": 1, "settings": {"lr": 0.9, "rho": 0.5}, "score": 0.1, "diverged": 2},
            {"trial": 2, "settings": {"lr": 0.2}, "score": None, "diverged": 0, "error": "ValueError: <b>no</b>"},
        ]
        search = {"winner": {"lr": 0.1}, "score": 0.91234, "trials": trials}
        tuning = {"score": "mean accuracy", "seeds": [1000], "contenders": dict.fromkeys(names, search)}
        files.write_json(out / "tuning.json", tuning)
    write.refresh(out)
    return out


class Page(HTMLParser):
    """A page as a list of tags, its tables, and what its scripts and styles hold."""

    def __init__(self, out):
        super().__init__()
        self.inside, self.in_cell = None, False
        self.tags, self.tables, self.scripts, self.styles, self.words = [], [], [], [], []
        self.text = (out / "report.html").read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(["", dict(attrs).get("data-value")])
            self.in_cell = True
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        kept = {"script": self.scripts, "style": self.styles}.get(self.inside, self.words)
        kept.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1][0] += data

    def table(self, *heads):
        """The rows of the one table whose head begins so."""
        (found,) = [rows for rows in self.tables if tuple(cell[0] for cell in rows[0])[: len(heads)] == heads]
        return found[1:]

    @property
    def figures(self):
        return json.loads(self.scripts[0])
