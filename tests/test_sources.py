"""The hash of what makes a plugin: what it reaches, and nothing else."""

import functools
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from plugins import FORGET, write

from harness import registry
from harness.locating import distributions
from harness.registry import available, resolve
from harness.sources import ROOT, reached, source_of
from harness.specs import SpecError


def at_a_prompt(text):
    """Define ``forget`` as at a prompt or in a notebook: in a module without a file."""
    import types

    module = types.ModuleType("at_a_prompt")
    exec(text, module.__dict__)
    return module


@pytest.mark.parametrize(
    "text", ["def forget(m, r):\n return {}", "class forget:\n def __call__(self, m, r): return {}"]
)
def test_what_was_typed_anew_at_a_prompt_has_another_source(monkeypatch, text):
    sources = []
    for version in (1, 2):
        module = at_a_prompt(text.format(version))
        monkeypatch.setitem(sys.modules, "at_a_prompt", module)
        sources.append(source_of(module.forget))
    assert sources[0] != sources[1]


# ---- what is reached


def source_of_edited(file: Path, spec: str) -> tuple[str, str]:
    """Return the source of a method before and after a comment is added to a file."""
    before = resolve("unlearner", spec).source
    file.write_text(file.read_text() + "\n# edited\n")
    return before, resolve("unlearner", spec).source


#: A loose file and two packages; which of their files the method reaches, the tests say.
FILES = {
    "loose.py": "import beside\nfrom near.sub import part\nimport spread.leaf as leaf\n" + FORGET,
    "beside.py": "from far.star import *\ndef late():\n    if True:\n        from far import deep\n",
    "stranger.py": "import loose\n",
    "near/__init__.py": "",
    "near/sub/__init__.py": "from . import sibling\n",
    "near/sub/part.py": "from ..cousin import thing\n",
    "near/sub/sibling.py": "",
    "near/sub/stranger.py": "",
    "near/cousin.py": "thing = 1\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import typed\nelse:\n"
    "    import untyped\n",
    "near/stranger.py": "",
    "typed.py": "",
    "untyped.py": "",
    "far/__init__.py": "",
    "far/deep.py": "import importlib\nnamed = importlib.import_module('far.named')\nother = __import__('far.other')\n",
    "far/named.py": "import loose, far.deep\n",
    "far/other.py": "from importlib import import_module\nimport_module('.relative', 'far')\n",
    "far/relative.py": "try:\n    import nowhere_at_all\nexcept ImportError:\n    pass\n",
    "far/star/__init__.py": "__all__: list[str] = ['listed']\n",
    "far/star/listed.py": "",
    "far/star/stranger.py": "",
    "spread/leaf.py": "",
    "notes.txt": "",
}
STRANGERS = {name for name in FILES if "stranger" in name} | {"typed.py", "notes.txt"}


@pytest.fixture
def files(modules, monkeypatch):
    for name, text in FILES.items():
        write(modules / name, text)
    monkeypatch.chdir(modules)
    return modules


def test_the_files_that_imports_reach_are_named(files):
    found = {file.relative_to(files).as_posix() for file in reached("loose", files).files}
    assert found == set(FILES) - STRANGERS


@pytest.mark.parametrize("edited", ["loose.py", "near/__init__.py", "near/cousin.py", "far/named.py", "spread/leaf.py"])
def test_an_edit_of_what_is_reached_changes_the_source(files, edited):
    before, after = source_of_edited(files / edited, "loose:forget")
    assert before != after


@pytest.mark.parametrize("edited", sorted(STRANGERS))
def test_an_edit_of_what_is_not_reached_changes_nothing(files, edited):
    before, after = source_of_edited(files / edited, "loose:forget")
    assert before == after


def test_what_is_reached_is_found_without_importing(modules):
    write(modules / "explosive.py", "import explosive_helper\nraise RuntimeError('imported')\n")
    write(modules / "explosive_helper.py", "raise RuntimeError('imported')\n")
    assert [file.name for file in reached("explosive", modules).files] == ["explosive.py", "explosive_helper.py"]
    assert "explosive" not in sys.modules


def test_the_source_is_the_same_imported_or_not(files):
    before = reached("loose").sha256
    assert resolve("unlearner", "loose:forget").source == before == reached("loose", files).sha256


def test_a_module_that_is_missing_is_reported():
    with pytest.raises(SpecError, match="the module 'nowhere_at_all' cannot be found"):
        reached("nowhere_at_all")


def test_the_module_that_was_named_counts_too(modules):
    write(modules / "defining.py", FORGET)
    naming = write(modules / "naming.py", "import defining\ndefining.RATE = 3\nforget = getattr(defining, 'forget')\n")
    before, after = source_of_edited(naming, "naming:forget")
    assert before != after


def test_a_partial_is_made_of_its_module_and_its_function(modules):
    write(modules / "defining_part.py", FORGET)
    write(
        modules / "part_method.py",
        "import functools, defining_part\nforget = functools.partial(defining_part.forget)\n",
    )
    found = resolve("unlearner", "part_method:forget")
    assert found.file == str(modules / "defining_part.py")
    before, after = source_of_edited(modules / "defining_part.py", "part_method:forget")
    assert before != after


def test_our_own_code_is_in_other_keys():
    found = {file.relative_to(ROOT).as_posix() for file in reached("unlearners.scrub").files}
    own = ("__init__", "_budget", "_steps", "_teachers", "_trained", "scrub")
    assert found == {f"unlearners/{name}.py" for name in own}
    found = {file.relative_to(ROOT).as_posix() for file in reached("harness.tasks.digits").files}
    assert found == {f"harness/tasks/{name}.py" for name in ("__init__", "_files", "_recipe", "digits")}


def test_a_library_that_others_installed_is_known_by_its_version():
    assert reached("harness.tasks.digits").versions["torch"] == metadata.version("torch")
    assert not [file for file in reached("harness.tasks.digits").files if "site-packages" in file.parts]


def installed(site: Path, version: str, text: str) -> None:
    """Put a distribution in place of an earlier one; its package is called otherwise than it."""
    for old in site.glob("their_dist-*.dist-info"):
        shutil.rmtree(old)
    write(site / "their_package/__init__.py", text)
    write(site / f"their_dist-{version}.dist-info/RECORD", f"their_package/__init__.py,sha256={hash(text)},1\n")
    distributions.cache_clear()


def test_another_version_of_a_library_changes_the_source(modules, monkeypatch):
    site = modules / "site-packages"
    installed(site, "1.0", "")
    monkeypatch.syspath_prepend(str(site))
    write(modules / "their_user.py", "import their_package\n" + FORGET)
    first = resolve("unlearner", "their_user:forget").source
    assert reached("their_user").versions == {"their_dist": "1.0"}
    installed(site, "1.0", "# an index never changes what a version holds\n")
    assert resolve("unlearner", "their_user:forget").source == first
    installed(site, "1.1", "")
    assert resolve("unlearner", "their_user:forget").source != first


def test_a_library_that_was_built_here_is_known_by_its_files(modules, monkeypatch):
    site = modules / "site-packages"
    installed(site, "1.0", "")
    write(site / "their_dist-1.0.dist-info/direct_url.json", "{}")
    monkeypatch.syspath_prepend(str(site))
    write(modules / "builder.py", "import their_package\n" + FORGET)
    sources = []
    for text in ("", "# edited\n"):
        installed(site, "1.0", text)
        write(site / "their_dist-1.0.dist-info/direct_url.json", "{}")
        sources.append(reached("builder").sha256)
    assert sources[0] != sources[1]


def test_a_plugin_that_is_installed_is_known_by_its_own_files(modules, monkeypatch):
    site = modules / "site-packages"
    installed(site, "1.0", FORGET)
    monkeypatch.syspath_prepend(str(site))
    before, after = source_of_edited(site / "their_package/__init__.py", "their_package:forget")
    assert before != after


# ---- what a plugin declares


@pytest.mark.parametrize("kind", ["table.csv", "tables", "computed_module"])
def test_what_a_plugin_depends_on_is_part_of_its_source(modules, kind):
    file = {"tables": "tables/deep/one.csv", "computed_module": "computed_module.py"}.get(kind, kind)
    write(modules / file, "1\n")
    write(modules / "dependent.py", f"{FORGET}\nforget.depends_on = ({kind!r},)\n")
    before, after = source_of_edited(modules / file, "dependent:forget")
    assert before != after


def test_what_a_task_or_poison_declares_counts_too(modules):
    table = write(modules / "table.csv", "1\n")
    write(modules / "data.py", "import tiny\nclass Data(tiny.Tiny):\n    depends_on = 'table.csv'\n")
    before = resolve("task", "data:Data").source
    table.write_text("2\n")
    assert resolve("task", "data:Data").source != before


def test_a_missing_dependency_is_reported(modules):
    file = write(modules / "lacking.py", f"{FORGET}\nforget.depends_on = ('no/table.csv',)\n")
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "lacking:forget")
    assert str(caught.value) == (
        f"depends_on = 'no/table.csv' in {file} names neither a file or folder beside that file nor a module; correct "
        "it or take it out"
    )


# ---- scripts


SCRIPT = """
import harness
from harness.registry import register

def forget(model, request):
    return model

if __name__ == "__main__":
    found = register("unlearner", forget)
    print(found.source, found.file or "typed")
"""


def test_what_comes_from_stdin_is_another_source_every_time(tmp_path):
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=True)
    typed = [run([sys.executable, "-"], input=SCRIPT).stdout.split() for _ in range(2)]
    assert typed[0][0] != typed[1][0]
    assert typed[0][1] == typed[1][1] == "typed"


def test_a_script_is_its_file_and_what_that_reaches(tmp_path):
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=True)
    script = write(tmp_path / "script.py", SCRIPT.replace("import harness", "import harness, aside"))
    aside = write(tmp_path / "aside.py")
    first, again = (run([sys.executable, str(script)]).stdout.split() for _ in range(2))
    assert first == again
    assert first[1] == str(script)
    aside.write_text("# edited")
    assert run([sys.executable, str(script)]).stdout.split()[0] != first[0]


# ---- what is registered


def test_methods_of_the_tree_have_sources_of_their_own():
    names = [name for name in available("unlearner") if name not in ("identity", "retrain", "wrecked")]
    assert len(names) > 15
    assert len({resolve("unlearner", name).source for name in names}) == len(names)
    assert resolve("unlearner", "identity").source == resolve("unlearner", "retrain").source


def test_every_registered_thing_resolves():
    for kind in registry.GROUPS:
        for name in available(kind):
            assert resolve(kind, name).id == name
