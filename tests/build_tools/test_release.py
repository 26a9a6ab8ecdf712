"""What a release is made of agrees: versions, requirements, the address, the workflows' permissions, what the packages hold."""

import importlib.util
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from build_tools import readme, settings
from helpers.installs import ROOT

import vaekit
from vaekit.ops import native

tomllib = pytest.importorskip("tomllib", reason="pyproject.toml is read, from Python 3.11 on")
yaml = pytest.importorskip("yaml")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def script(name: str):
    """A script of .ci as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ready, check_packages = script("ready"), script("check_packages")


# --- the tree ------------------------------------------------------------------------------------------------------------


def test_the_version_is_the_same_wherever_it_is_written():
    versions = ready.versions(ROOT)
    assert len(versions) == 4
    assert set(versions.values()) == {vaekit.__version__}, versions


@pytest.fixture
def tree(tmp_path) -> Path:
    """What `ready` looks at, as it has to be for v1.2.3."""
    for file in (*ready.versions(ROOT), "pyproject.toml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        text = (ROOT / file).read_text(encoding="utf-8").replace(vaekit.__version__, "1.2.3").replace("git.example", "git.here")
        (tmp_path / file).write_text(re.sub(r"(?m)^(## \[1\.2\.3\] - ).*$", r"\g<1>2026-01-31", text), encoding="utf-8")
    return tmp_path


def test_a_tree_that_is_ready_is_published_under_its_own_tag_alone(tree):
    assert list(ready.missing(tree, "v1.2.3")) == []
    assert all("v1.2.4" in each for each in list(ready.missing(tree, "v1.2.4"))[:4])


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("CITATION.cff", "1.2.3", "1.2.2", "CITATION.cff"),
        ("conda/recipe.yaml", '"1.2.3"', '"1.2"', "conda/recipe.yaml"),
        ("CHANGELOG.md", "2026-01-31", "unreleased", "no date"),
        ("pyproject.toml", "git.here", "git.example", "placeholder https://git.example/vaekit"),
    ],
)
def test_what_is_missing_is_named(tree, file, old, new, said):
    (tree / file).write_text((tree / file).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    (found,) = ready.missing(tree, "v1.2.3")
    assert said in found


def test_the_repositorys_address_stands_in_one_place():
    host = ready.address(ROOT).split("/")[2]
    written = [
        *ROOT.glob("*.md"),
        *ROOT.glob("*.cff"),
        *ROOT.glob("*.yml"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "vaekit").rglob("*.py"),
    ]
    written += [*(ROOT / ".github").rglob("*.yml"), ROOT / "conda/recipe.yaml"]
    assert [file for file in written if host in file.read_text(encoding="utf-8")] == []


def test_pythons_are_said_built_for_and_tested_alike():
    classifiers = {re.sub(r".*:: 3\.", "", line) for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)}
    wheels = PROJECT["tool"]["cibuildwheel"]
    assert {f"cp3{minor}-*" for minor in classifiers} == set(wheels["build"].split())
    assert PROJECT["project"]["requires-python"] == f">=3.{min(map(int, classifiers))}"
    assert set(wheels["test-requires"]) <= set(PROJECT["project"]["optional-dependencies"]["test"])
    files = re.findall(r"\{project\}/(\S+\.\w+)", " ".join(wheels["test-command"]))
    assert len(files) > 2
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_condas_recipe_asks_for_what_pip_asks_for():
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text(encoding="utf-8"))
    names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    ours = dict(re.fullmatch(r"([\w-]+)(.*)", each).groups() for each in PROJECT["project"]["dependencies"])
    condas = dict(each.partition(" ")[::2] for each in recipe["requirements"]["run"] if each != "python")
    assert {names.get(name, name): version for name, version in ours.items()} == condas
    assert recipe["about"]["license"] == PROJECT["project"]["license"]
    assert recipe["about"]["license_file"] == PROJECT["project"]["license-files"]


def test_who_has_a_gpu_and_a_published_wheel_is_told_to_build_the_kernel():
    """As long as nobody asked for none: VAEKIT_CUDA=0 at build time would silence the warning for everybody."""
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text(encoding="utf-8"))
    for environment in (PROJECT["tool"]["cibuildwheel"]["environment"], recipe["build"]["script"]["env"]):
        assert environment["VAEKIT_REQUIRE_NATIVE"] == "1"
        assert "VAEKIT_CUDA" not in environment
    assert native._AGAIN == settings.AGAIN
    assert "--no-binary vaekit" in settings.AGAIN, "pip would fetch the same wheel again"


def test_the_readme_of_an_index_links_into_the_repository(monkeypatch):
    text = "![a](p/a.png) [b](docs/b.md#c) [d](https://d.org) [e](#e)\n```python\nx[0](y)\n```\n[f](f.md)"
    assert readme.for_an_index(text, "https://here/vaekit", "v1.0") == (
        "![a](https://here/vaekit/raw/v1.0/p/a.png) [b](https://here/vaekit/blob/v1.0/docs/b.md#c) [d](https://d.org) [e](#e)\n"
        "```python\nx[0](y)\n```\n[f](https://here/vaekit/blob/v1.0/f.md)"
    )
    monkeypatch.chdir(ROOT)
    shown = readme.long_description()
    assert set(re.findall(r"\]\((.+?)/(?:raw|blob)/(.+?)/", shown)) == {(ready.address(ROOT), f"v{vaekit.__version__}")}
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```$", "", shown))
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("https:", "#"))] == []


# --- what GitHub reads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_and_permissions_are_the_least(file):
    text = file.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.+)", text)
    assert used
    for action in used:
        assert action.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == ({"id-token": "write"} if name == "publish" else {"contents": "read"}), name


def test_only_a_tag_is_published_after_tests_and_checks():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    publish = workflow["jobs"]["publish"]
    assert publish["if"] == "github.ref_type == 'tag'"
    assert set(publish["needs"]) == {"tests", "check"}
    assert publish["environment"] == "pypi"
    systems = workflow["jobs"]["wheels"]["strategy"]["matrix"]["os"]
    asked = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "check_packages" in step.get("run", "")]
    assert asked == [f"python .ci/check_packages.py --platforms {len(systems)} dist"]


def test_whoever_reports_something_is_asked_for_vaekit_doctor():
    for name in ("fault", "speed", "wish"):
        form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
        (doctor,) = (field for field in form["body"] if field.get("id") == "doctor")
        assert "vaekit doctor" in doctor["attributes"]["label"]
        assert doctor.get("validations", {}).get("required", False) == (name != "wish")


# --- the packages --------------------------------------------------------------------------------------------------------

HELD = (
    *("vaekit/__init__.py", "vaekit/_build.json", "vaekit/py.typed"),
    *(f"vaekit-1.0.dist-info/{name}" for name in ("METADATA", "licenses/LICENSE", "licenses/NOTICE")),
)


def wheel(folder: Path, platform: str, *names: str) -> Path:
    file = folder / f"vaekit-1.0-py3-none-{platform}.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, json.dumps({"kernels": {"cpu": {"bytes": 7}}}) if name.endswith("_build.json") else "library")
    return file


@pytest.mark.parametrize(
    ("platform", "library"),
    [("manylinux_2_28_x86_64", "so"), ("manylinux_2_28_aarch64", "so"), ("macosx_11_0_arm64", "so"), ("win_amd64", "dll")],
)
def test_a_wheel_has_its_platforms_library(tmp_path, platform, library):
    assert list(check_packages.problems_of(wheel(tmp_path, platform, *HELD, f"vaekit/_C_cpu.{library}"))) == []
    other = {"so": "dll", "dll": "so"}[library]
    (found,) = check_packages.problems_of(wheel(tmp_path, platform, *HELD, f"vaekit/_C_cpu.{other}"))
    assert f"_C_cpu.{library} is missing" in found


@pytest.mark.parametrize(
    ("platform", "names", "said"),
    [
        ("any", (*HELD, "vaekit/_C_cpu.so"), "py3-none for one platform"),
        ("linux_x86_64", (*HELD[:-1], "vaekit/_C_cpu.so"), "NOTICE is missing"),
        ("linux_x86_64", (*HELD, "vaekit/_C_cpu.so", "tests/test_x.py"), "tests/test_x.py"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_named(tmp_path, platform, names, said):
    (found,) = check_packages.problems_of(wheel(tmp_path, platform, *names))
    assert said in found


def test_a_library_that_was_changed_after_it_was_built_is_named(tmp_path):
    file = wheel(tmp_path, "macosx_11_0_arm64", *(name for name in HELD if "_build" not in name), "vaekit/_C_cpu.so")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("vaekit/_build.json", json.dumps({"kernels": {"cpu": {"bytes": 8}}}))
    assert list(check_packages.problems_of(file)) == [
        f"vaekit/_C_cpu.so has {len('library')} bytes, but 8 were built: what changed it keeps vaekit from loading it"
    ]


def test_packages_are_one_sdist_and_a_wheel_for_each_platform_all_of_one_version(tmp_path):
    sdist, first = tmp_path / "vaekit-1.0.tar.gz", wheel(tmp_path, "linux_x86_64", *HELD, "vaekit/_C_cpu.so")
    assert list(check_packages.problems([sdist], [first], 1)) == []
    assert "4 wheels" in next(check_packages.problems([sdist], [first], 4))
    assert "one sdist" in next(check_packages.problems([], [first], None))
    second = shutil.copy(first, tmp_path / "vaekit-1.1-py3-none-win_amd64.whl")
    assert any("several versions" in each for each in check_packages.problems([sdist], [first, Path(second)], None))
