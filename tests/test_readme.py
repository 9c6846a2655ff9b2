"""Snippets, commands and links of README and docs work."""

from __future__ import annotations

import re
import shlex
from inspect import cleandoc
from pathlib import Path

from make_checkpoint import write_checkpoint
from PIL import Image

from reco import cli
from reco.config import CONFIG_FOLDER, load_config
from reco.training import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMENTS = [
    re.sub(r"^(?:# ?|[^#].*)", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for path in CONFIG_FOLDER.rglob("*.yaml")
]
# Configurations that users would write, in examples of the pages.
EXAMPLES = {"crack.yaml", "leaves.yaml", "aerial.yaml", "my.yaml", "data/data.yaml", "<file>"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "last.pt")
    Image.new("RGB", (60, 40)).save("photo.jpg")
    training, predicting = blocks("python")
    names: dict = {}
    exec(training, names)
    assert names["features"].grad.abs().sum() > 0
    exec(predicting, names)
    assert names["labels"].shape == names["confidence"].shape == (40, 60)


def test_the_page_of_the_loss_runs():
    """Its examples, with the names that they use."""
    examples = re.findall(r"```python\n(.*?)```", PAGES["loss.md"], re.DOTALL)
    of_teacher, of_torchvision = ({}, {})
    for example, names in zip(examples, (of_teacher, of_torchvision), strict=True):
        exec(example, names)
        assert names["head"].weight.grad.abs().sum() > 0
    assert of_teacher["teacher"].updates == 1
    weights = [*of_torchvision["network"].backbone.parameters()]
    assert all(weight.grad is not None for weight in weights)


def commands(text: str) -> list[list[str]]:
    """The words of each command of this project: a whole line, or within a sentence."""
    line = r"^ *(?:.* && )?(?:python |torchrun .*)?(?:scripts/(train|eval)\.py|reco) ([a-z-].*)$"
    found = re.findall(line, text.replace("\\\n", ""), re.MULTILINE)
    shown = [f"{script} {words}".split(" > ")[0].replace("…", "x") for script, words in found]
    sentences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    shown += re.findall(r"`reco ([a-z-]+\s[^`<…]+)`", sentences)
    return [shlex.split(words, comments=True) for words in shown if "--help" not in words]


def all_commands() -> list[list[str]]:
    """Those of all pages, of the comments in configurations, and of ``--help``."""
    helps = [cleandoc(describe.__doc__ or "") for describe in cli.COMMANDS.values()]
    texts = (README, CONTRIBUTING, *PAGES.values(), *COMMENTS, *helps)
    return [words for text in texts for words in commands(text)]


def test_every_command_shown_is_understood():
    shown = all_commands()
    assert len({words[0] for words in shown}) == len(cli.COMMANDS)
    parser = cli.command_parser()
    for words in shown:
        parser.parse_args(words)


def test_own_images_configuration_loads(tmp_path):
    (text,) = blocks("yaml")
    path = tmp_path / "crack.yaml"
    path.write_text(text)
    config = load_config(path)
    assert config.dataset.name == "folder"
    assert config.dataset.classes == {"background": 0, "crack": 255}


def test_configurations_of_commands_load():
    parsed = [cli.command_parser().parse_args(words) for words in all_commands()]
    training = [arguments for arguments in parsed if hasattr(arguments, "resume")]
    files = {(*a.config, *a.overrides): a for a in training if a.config}
    assert len(files) > 50
    for arguments in files.values():
        if not EXAMPLES & {*arguments.config}:
            load_config(arguments.config, arguments.overrides)


def test_commands_for_several_gpus_give_each_a_share(monkeypatch):
    help_text = cli.train.__doc__
    pattern = r"torchrun --nproc_per_node=(\d)(?: --\S+)* scripts/train\.py --config (\S+)"
    for text in (help_text, PAGES["several_gpus.md"]):
        commands = re.findall(pattern, text)
        assert commands
        for processes, name in commands:
            monkeypatch.setattr(build.distributed, "world_size", lambda n=int(processes): n)
            build._check_shares(load_config(name))


def test_studies_named_are_there():
    names = re.findall(r"studies/(\w+\.yaml)", " ".join(PAGES.values()))
    assert names
    for name in names:
        assert (ROOT / "configs" / "studies" / name).is_file(), name


def test_experiments_of_the_table_load():
    section = PAGES["experiments.md"]
    names = [name for name in re.findall(r"`([a-z0-9_]+\.yaml)`", section) if "my" not in name]
    assert names
    for name in names:
        load_config(name)
    rows = re.findall(r"^\| [^|]+ \| `([a-z_.= ]+)`", section, re.MULTILINE)
    assert rows
    for overrides in rows:
        load_config("cityscapes_5shot.yaml", overrides.split())


def test_pictures_and_pages_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
    for page in PAGES.values():
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page):
            assert (ROOT / "docs" / target).is_file(), target
