"""Figures of a source tree, on a small tree whose figures are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import structure
from benchmarks.import_costs import Absent, Cost, import_cost
from benchmarks.import_graph import Shape, import_edges, modules, parse, shape_of
from benchmarks.structure import (
    crossings,
    distribution,
    function_lengths,
    import_figures,
    line_figures,
    package_ratios,
    ratio_figures,
)

TREE = {
    "alphagrpo/__init__.py": "",
    # A chain of four packages: top, middle, low, seeds.
    "alphagrpo/top/__init__.py": "from alphagrpo.middle import work\n",
    "alphagrpo/middle/__init__.py": "",
    "alphagrpo/middle/work.py": "from ..low.deep import depth\nimport numpy.linalg\n",
    "alphagrpo/low/__init__.py": "from .deep import depth\n",
    "alphagrpo/low/deep.py": "try:\n    from alphagrpo import seeds\nfinally:\n    pass\n",
    "alphagrpo/seeds.py": "",
    # Two packages import each other, no two modules do.
    "alphagrpo/one/__init__.py": "",
    "alphagrpo/one/a.py": "from alphagrpo.two.b import b\n",
    "alphagrpo/one/c.py": "",
    "alphagrpo/two/__init__.py": "",
    "alphagrpo/two/b.py": "import alphagrpo.one.c\n",
    # What does not run at import: a longer chain, and a cycle of modules.
    "alphagrpo/late.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from alphagrpo.top import work\nelse:\n    import alphagrpo.seeds\n"
    ),
    "alphagrpo/later.py": "class Later:\n    def run(self):\n        import alphagrpo.late\n",
    "alphagrpo/ring.py": "import alphagrpo.rung\n",
    "alphagrpo/rung.py": "async def climb():\n    from alphagrpo.ring import x\n    return x\n",
    "actors/__init__.py": "",
    "actors/shell.py": "import alphagrpo.top\n",
    "services/__init__.py": "",
    "services/gate.py": "def go():\n    import actors.shell\n",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path, TREE)


def test_packages_at_import_have_the_known_layers_and_the_known_cycle(tree: Path) -> None:
    found = import_figures(tree)["alphagrpo, packages"]["at import"]
    assert found["layers"] == 4
    assert found["cycles"] == [["alphagrpo.one", "alphagrpo.two"]]
    assert found["nodes"] == 11
    # top-middle, middle-low, low-seeds, one-two, two-one, late-seeds, ring-rung.
    assert found["edges"] == 7


def test_late_imports_are_counted_apart(tree: Path) -> None:
    found = import_figures(tree)["alphagrpo, packages"]["anywhere"]
    assert found["layers"] == 6
    assert found["cycles"] == [
        ["alphagrpo.one", "alphagrpo.two"],
        ["alphagrpo.ring", "alphagrpo.rung"],
    ]
    assert found["edges"] == 7 + 3


def test_a_cycle_of_packages_need_not_be_one_of_modules(tree: Path) -> None:
    found = import_figures(tree)["alphagrpo, modules"]
    assert found["at import"]["cycles"] == []
    assert found["anywhere"]["cycles"] == [["alphagrpo.ring", "alphagrpo.rung"]]


def test_actors_and_services_are_one_package_each(tree: Path) -> None:
    found = import_figures(tree)["all, packages"]
    assert found["at import"]["nodes"] == 13
    assert found["at import"]["layers"] == 5  # actors above top
    assert crossings(tree) == ["services.gate imports actors.shell"]
    (tree / "services/gate.py").unlink()
    assert crossings(tree) == []


def test_edges_are_the_modules_that_a_statement_names(tree: Path) -> None:
    at_import, anywhere = import_edges(modules(tree, ["alphagrpo"]))
    of_low = {(a, b) for a, b in at_import if a.startswith("alphagrpo.low")}
    assert of_low == {
        ("alphagrpo.low", "alphagrpo.low.deep"),
        ("alphagrpo.low.deep", "alphagrpo.seeds"),
    }
    assert ("alphagrpo.middle.work", "alphagrpo.low.deep") in at_import
    assert ("alphagrpo.late", "alphagrpo.seeds") in at_import
    assert anywhere - at_import == {
        ("alphagrpo.late", "alphagrpo.top"),
        ("alphagrpo.later", "alphagrpo.late"),
        ("alphagrpo.rung", "alphagrpo.ring"),
    }


def test_a_cycle_counts_as_one_node_of_a_chain() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("d", "e"), ("a", "e"), ("e", "e")]
    assert shape_of("abcde", edges) == Shape(nodes=5, edges=6, layers=3, cycles=[["b", "c", "d"]])
    assert shape_of("ab", []) == Shape(nodes=2, edges=0, layers=1, cycles=[])


def test_lines_of_functions_count_methods_and_nested_ones(tmp_path: Path) -> None:
    text = (
        "@staticmethod\ndef f():\n    def g():\n        pass\n\n    return g\n"
        "class C:\n    async def m(self): ...\n"
    )
    path = plant(tmp_path, {"code.py": text}) / "code.py"
    assert sorted(function_lengths(parse(path))) == [1, 2, 5]


def test_p90_is_the_nearest_rank() -> None:
    assert distribution(range(1, 11)) == {"number": 10, "median": 5.5, "p90": 9, "max": 10}
    assert distribution([7]) == {"number": 1, "median": 7, "p90": 7, "max": 7}
    assert distribution([]) == {"number": 0, "median": None, "p90": None, "max": None}


def test_lines_are_given_of_packages_that_exist(tree: Path) -> None:
    found = line_figures(tree)
    assert list(found) == ["alphagrpo", "actors", "services"]
    assert found["services"]["lines"] == 2
    assert found["services"]["files"] == {"number": 2, "median": 1, "p90": 2, "max": 2}
    assert found["services"]["functions"]["max"] == 2
    plant(tree, {"miniature/train.py": "x = 1\n" * 3})
    assert line_figures(tree)["miniature"]["lines"] == 3


def test_test_ratios_leave_the_miniature_models_out(tmp_path: Path) -> None:
    lines = {
        "alphagrpo/flow/steps.py": 40,
        "alphagrpo/loop.py": 30,
        "alphagrpo/shapes/world.py": 10,
        "alphagrpo/shapes/policy/corpus.py": 1000,
        "alphagrpo/shapes/judges/heads.py": 1000,
        "actors/shell.py": 15,
        "services/gate.py": 5,
        "miniature/train.py": 1000,
        "tests/conftest.py": 100,
        "tests/unit/flow/test_steps.py": 8,
        "tests/unit/kernels/test_gpu.py": 7,
        "tests/unit/test_loop.py": 6,
        "tests/unit/shapes/test_world.py": 500,
        "tests/unit/miniature/test_train.py": 500,
        "tests/miniature/test_all.py": 400,
        "tests/services/test_gate.py": 4,
        "tests/cluster/test_shell.py": 3,
        "tests/deploy/test_configs.py": 2,
    }
    root = plant(tmp_path, {name: "x\n" * number for name, number in lines.items()})
    found = ratio_figures(root)
    assert found["library"] == {"tests": 30, "code": 100, "ratio": 0.3}
    assert found["all"] == {"tests": 1530, "code": 3100, "ratio": 1530 / 3100}
    packages = package_ratios(root)
    assert packages["flow"] == {"tests": 8, "code": 40, "ratio": 0.2}
    assert packages["loop"] == {"tests": 6, "code": 30, "ratio": 0.2}
    assert packages["kernels"] == {"tests": 7, "code": 0, "ratio": None}
    assert set(packages) == {"flow", "loop", "shapes", "kernels", "miniature"}


def test_a_cost_names_the_heavy_packages_an_import_loads(tmp_path: Path) -> None:
    light = "print('said on import')\n"
    root = plant(tmp_path, {"torch.py": "", "heavy.py": "import torch\n", "light.py": light})
    heavy, light_cost = import_cost(root, "heavy"), import_cost(root, "light")
    assert isinstance(heavy, Cost)
    assert isinstance(light_cost, Cost)
    assert heavy.loaded == ["torch"]
    assert light_cost.loaded == []
    assert light_cost.cpu_s > 0


def test_a_cost_is_the_childs_alone(tmp_path: Path) -> None:
    root = plant(tmp_path, {"small.py": "", "large.py": "kept = b'x' * (1 << 27)\n"})
    held = b"x" * (1 << 27)  # this process is larger than the small one whatever it has imported
    small, large = import_cost(root, "small"), import_cost(root, "large")
    del held
    assert isinstance(small, Cost)
    assert isinstance(large, Cost)
    assert small.peak_mb < 64
    assert 128 < large.peak_mb < 192


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (["nowhere"], "No module named 'nowhere'"),
        (["broken"], "division by zero"),
        (["json"], "json is not in this tree"),
        (["command", "wrong"], "error: wrong"),
    ],
)
def test_what_cannot_be_imported_or_run_is_absent(
    tmp_path: Path, call: list[str], reason: str
) -> None:
    command = (
        "import sys\ndef main(args):\n    print('error:', *args, file=sys.stderr)\n    return 2\n"
    )
    root = plant(tmp_path, {"broken.py": "1 / 0\n", "command.py": command})
    found = import_cost(root, *call)
    assert isinstance(found, Absent)
    assert reason in str(found)


def test_an_editable_install_never_answers_for_a_module_the_tree_lacks(tmp_path: Path) -> None:
    other = plant(tmp_path / "other", {"shared/extra.py": ""})
    finder = (
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    __module__ = '__editable___mesh_finder'\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        where = {str(other)!r} + '/' + name.replace('.', '/') + '.py'\n"
        "        return importlib.util.spec_from_file_location(name, where)\n"
        "sys.meta_path.append(Finder)\n"
    )
    root = plant(
        tmp_path / "root", {"shared/__init__.py": "", "shared/user.py": "import shared.extra"}
    )
    plant(root, {"sitecustomize.py": finder})
    found = import_cost(root, "shared.user")
    assert isinstance(found, Absent)
    assert "No module named 'shared.extra'" in str(found)


def test_the_command_prints_absent_targets_and_never_a_zero(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tree, {"services/gateway.py": ""})
    monkeypatch.setattr(sys, "argv", ["structure", "--root", str(tree)])
    structure.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert "| alphagrpo.loop | absent | ModuleNotFoundError" in rows["alphagrpo.loop"]
    assert "0" not in rows["alphagrpo.loop"]
    assert rows["services.gateway"].endswith("| no | no | no | no | no |")
    assert "cycle (alphagrpo, packages, at import): alphagrpo.one, alphagrpo.two" in lines
    assert "actors and services import each other: services.gate imports actors.shell" in lines


def test_json_holds_what_is_printed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["structure", "--root", str(tree), "--json"])
    monkeypatch.setattr(structure, "import_cost", lambda *_: Absent("not asked"))
    structure.main()
    found = json.loads(capsys.readouterr().out)
    assert found["imports"]["alphagrpo, packages"]["at import"]["layers"] == 4
    assert found["costs"]["services.client"] == {"absent": "not asked"}


def test_a_root_without_the_library_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["structure", "--root", str(tmp_path)])
    with pytest.raises(SystemExit):
        structure.main()
    assert "holds alphagrpo/" in capsys.readouterr().err
